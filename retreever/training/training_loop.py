"""The training loop: plain torch, on a laptop or as one of many workers.

`epochs` is a generator that trains up to the next validation, yields its figures and continues when resumed, so that a
notebook, a Ray Train worker and a Tune trial drive the same loop. Everything random in a step is a pure function of
(seed, step, rank); with the state saved by `checkpoint.py` a resumed run repeats an uninterrupted one to the bit. The
loop knows neither Ray nor MLflow, and no files outside the run's own folder.
"""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.errors import TrainingError
from retreever.evaluation.metrics import METRIC
from retreever.model import RoutingTree, levels_at_step
from retreever.system.progress import Track, track_silently
from retreever.training import checkpoint, distributed
from retreever.training.guard_set import make_guard_sets
from retreever.training.initial_tree import start_tree
from retreever.training.learner import Learner, build_learner, build_optimizer, learning_rate_at_step
from retreever.training.training_batches import TrainingBatches, derive_step_seed
from retreever.training.validation import QUERY_SCORES_FILE, Validation


@dataclass(frozen=True)
class ValidationReport:
    """Report of a validation.

    Attributes:
        step: optimiser steps done.
        epoch: validations done, from 1.
        metrics: plain finite numbers by name; `ndcg_at_10` is the last level's on dev, `ndcg_at_10/level_06` level 6's.
            Where `train.steps` is 0 there is no loss, and without dev pairs none of these metrics.
        warnings: routing failures in words (see `model/health.py`), and faults from which the training recovered.
        is_best: no earlier validation was better.
        is_last: training ends with this report.
        checkpoint: folder with the full state; rank 0 writes it, and later checkpoints replace it.
    """

    step: int
    epoch: int
    metrics: dict[str, float]
    warnings: list[str]
    is_best: bool
    is_last: bool
    checkpoint: Path


@dataclass
class TrainingResult:
    """Result of a finished training: the folder of the best model, its figures, and those of every validation."""

    model: Path
    best: dict[str, float]
    history: list[dict[str, float]] = field(default_factory=list)


def epochs(
    config: Config,
    data: EncodedDataset,
    folder: Path,
    *,
    guards: Mapping[str, EncodedDataset] | None = None,
    device: str = "cpu",
    track: Track = track_silently,
    must_save: Callable[[int], bool] = lambda step: False,
    on_checkpoint: Callable[[Path], object] = lambda checkpoint: None,
) -> Iterator[ValidationReport]:
    """Train in `folder`, from its last checkpoint if any, and yield a report after every validation.

    Args:
        folder: holds `checkpoint/` (the last two checkpoints) and, at the end, `model/` (the best model).
        guards: the data of every guard set of `config.guards`, by its name there.
        device: a torch device.
        track: shows the steps; called once between two validations.
        must_save: called with the steps done after every step; true saves the state at once. Its answer must be the
            same on all workers.
        on_checkpoint: called with the path of every checkpoint, on the worker that wrote it.

    Raises:
        BundleError: every checkpoint in the folder is damaged.
        ConfigError: the folder holds a run of another configuration, or `guards` are not those of this one.
        DataError: the data set has no train or no dev pairs (unless `train.steps` is 0), or a guard set has nothing to
            be judged on.
        TrainingError: the loss is no longer finite.
    """
    run = _TrainingRun(config, data, folder, device, on_checkpoint, guards)
    try:
        if not config.train.steps and not run.state.history:
            yield run.validate()
        while not run.done:
            run.train(track, must_save)
            yield run.validate()
        run.finish()
    finally:
        run.batches.close()


def fit(
    config: Config,
    data: EncodedDataset,
    folder: Path,
    *,
    guards: Mapping[str, EncodedDataset] | None = None,
    report: Callable[[ValidationReport], object] = lambda report: None,
    device: str = "cpu",
    track: Track = track_silently,
) -> TrainingResult:
    """Train to the end and call `report` after every validation; see `epochs`."""
    for validation_report in epochs(config, data, folder, guards=guards, device=device, track=track):
        report(validation_report)
    return load_training_result(folder)


def load_training_result(folder: Path) -> TrainingResult:
    """Read the result of a finished training from `folder`.

    Raises:
        BundleError: the folder holds no checkpoint.
    """
    state = checkpoint.read_training_state(folder / "checkpoint")
    return TrainingResult(folder / "model", state.best, state.history)


class _TrainingRun:
    """One training in progress."""

    def __init__(
        self,
        config: Config,
        data: EncodedDataset,
        folder: Path,
        device: str,
        on_checkpoint: Callable[[Path], object],
        guards: Mapping[str, EncodedDataset] | None = None,
    ):
        self.config, self.folder, self.device = config, folder, device
        self.on_checkpoint = on_checkpoint
        guard_sets = make_guard_sets(config, guards or {}, data, device)
        self.batches = TrainingBatches(config, data, device)
        self.validation = Validation(config, data, self.batches.pairs, device, guard_sets)
        self.learner = self._build_learner(data.dim)
        self.optimizer = build_optimizer(self.learner, config)
        self.state = checkpoint.TrainingState(config_digest=config.digest)
        resumed = distributed.run_on_rank_zero(lambda: checkpoint.load_latest_checkpoint(folder / "checkpoint", config))
        if resumed:
            self.state = resumed.restore(self.learner, self.optimizer)
        self.figures: dict[str, float] = {}
        self.parallel: nn.Module = self.learner
        if distributed.world_size() > 1:
            self.parallel = DistributedDataParallel(self.learner)

    def _build_learner(self, dim: int) -> Learner:
        """Tree and loss, started from a sample of the training passages, the same on every worker."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.train.seed)
            learner = build_learner(self.config, dim, self.device)
            start_tree(learner.tree, self.config, *self.batches.load_sample())
            if learner.anchor:
                learner.anchor.set_start(learner.tree)
        return learner.to(self.device)

    @property
    def done(self) -> bool:
        return self.state.step >= self.config.train.steps or self.state.stopped

    def train(self, track: Track, must_save: Callable[[int], bool]) -> None:
        """Train up to the next validation."""
        train = self.config.train
        end = min(train.steps, (self.state.step // train.eval_every + 1) * train.eval_every)
        self.parallel.train()
        losses = [torch.tensor(loss, device=self.device) for loss in self.state.losses]
        started, first = time.monotonic(), self.state.step
        for step in track(range(first, end), "training", total=end - first):
            losses.append(self._step(step))
            self.state.step = step + 1
            if must_save(step + 1) and step + 1 < end:
                self._save_between_validations(losses)
        seconds = time.monotonic() - started
        self.state.seconds += seconds
        self.state.losses = []
        loss = distributed.average_over_workers(torch.stack(losses).mean()).item()
        if not math.isfinite(loss):
            raise TrainingError(
                f"loss is {loss} before step {end} (seed {train.seed}): lower train.lr ({train.lr}) or loss.scale "
                f"({self.config.loss.scale})"
            )
        self.figures = {
            "loss": loss,
            "pairs_per_second": (end - first) * train.accumulate * self.batches.batch_size / max(seconds, 1e-9),
        }

    def _save_between_validations(self, losses: list[Tensor]) -> None:
        """Save the state between two validations, with the losses since the last one."""
        self.state.losses = distributed.average_over_workers(torch.stack(losses)).tolist()
        self._save(None)

    def _save(self, best: RoutingTree | None) -> None:
        if distributed.rank() == 0:
            folder = self.folder / "checkpoint"
            checkpoint.save_checkpoint(folder, self.learner, self.optimizer, self.state, self.config, best)
            self.on_checkpoint(checkpoint.checkpoint_path(folder, self.state.step))

    def _step(self, step: int) -> Tensor:
        train = self.config.train
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at_step(step, self.config)
        self.optimizer.zero_grad(set_to_none=True)
        batches = range(step * train.accumulate, (step + 1) * train.accumulate)
        losses = [self._backward(batch, step, last=batch == batches[-1]) for batch in batches]
        nn.utils.clip_grad_norm_(self.learner.parameters(), train.clip_norm)
        self.optimizer.step()
        if self.learner.anchor:
            self.learner.anchor.pull(self.learner.tree, self.optimizer.param_groups[0]["lr"])
        self.learner.loss.clamp_()
        return torch.stack(losses).sum()

    def _backward(self, number: int, step: int, last: bool) -> Tensor:
        """Add the gradient of a batch; workers exchange gradients after the last batch of a step."""
        seed = self.config.train.seed
        pairs, queries, passages = self.batches(number)
        no_sync = self.parallel.no_sync() if isinstance(self.parallel, DistributedDataParallel) and not last else None
        with (
            torch.random.fork_rng(devices=[] if self.device == "cpu" else [torch.device(self.device)]),
            no_sync or contextlib.nullcontext(),
        ):
            torch.manual_seed(derive_step_seed(seed, number))
            keep = self.batches.draw_masks(pairs)
            torch.manual_seed(derive_step_seed(seed, number, 1 + distributed.rank()))
            loss = self.parallel(queries, passages, self._choose_levels(step), keep) / self.config.train.accumulate
            loss.backward()
        return loss.detach()

    def _choose_levels(self, step: int) -> tuple[int, ...]:
        depth, train = self.config.depth, self.config.train
        return levels_at_step(
            depth.scheduler,
            self.config.tree.depth,
            step,
            train.steps,
            train.seed,
            levels=depth.levels,
            warmup_fraction=depth.warmup_fraction,
        )

    def validate(self) -> ValidationReport:
        """Validate on dev, save the state, and return the report; rank 0 keeps the best model."""
        started = time.monotonic()
        tree = self._turned_tree()
        outcome = self.validation.run(tree)
        state, train = self.state, self.config.train
        metrics = self.figures | outcome.metrics
        metrics |= {"scale": self.learner.loss.scale, "lr": learning_rate_at_step(max(0, state.step - 1), self.config)}
        metrics |= {"seconds": state.seconds, "validation_seconds": time.monotonic() - started}
        metrics |= {"step": float(state.step), "workers": float(distributed.world_size())}
        best = not state.best or metrics[METRIC] > state.best[METRIC]
        if best:
            state.best, state.since_best = metrics, 0
        else:
            state.since_best += 1
        state.history.append(metrics)
        state.stopped = train.patience is not None and state.since_best >= train.patience
        if best and distributed.rank() == 0:
            self.validation.write_scores(outcome, self.folder / QUERY_SCORES_FILE)
        self._save(tree if best else None)
        return ValidationReport(
            state.step,
            len(state.history),
            metrics,
            outcome.warnings + state.notes,
            best,
            self.done,
            checkpoint.checkpoint_path(self.folder / "checkpoint", state.step),
        )

    def _turned_tree(self) -> RoutingTree:
        """The tree as it is judged and exported: a copy with its rows turned, the same on every worker."""
        if not (self.config.tree.turn and self.config.train.steps and self.learner.tree.turned_groups):
            return self.learner.tree
        tree = copy.deepcopy(self.learner.tree)
        if distributed.rank() == 0:
            tree.turn(*self.batches.load_pair_sample(), self.config.train.seed)
        distributed.copy_from_rank_zero(tree)
        return tree

    def finish(self) -> None:
        """Copy the best model to `model/`, on rank 0."""
        if distributed.rank() == 0:
            checkpoint.export_best_model(self.folder / "checkpoint", self.folder / "model")
