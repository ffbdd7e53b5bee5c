"""Training a routing tree on encodings: plain torch, on a laptop or as one of many workers.

`epochs` is a generator that trains up to the next validation, yields its figures and goes on when asked, so that a
notebook, a Ray Train worker and a Tune trial drive the same loop. Everything random in a step is a pure function of
(seed, step, rank); with the state kept in `checkpoint.py` a resumed run repeats an uninterrupted one to the bit.
What is not known here: Ray, MLflow, files other than the run's own folder.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from retreever.config import Config
from retreever.data.training_pairs import batch_rows, limit
from retreever.encoding.encoding_store import EncodedDataset
from retreever.errors import TrainingError
from retreever.evaluation.metrics import METRIC
from retreever.model import RoutingTree, levels_at, negatives_mask
from retreever.system.progress import Track, silent
from retreever.training import checkpoint, distributed
from retreever.training.learner import Batch, Learner, Masks, learner_of, learning_rate, optimizer_of
from retreever.training.prefetch import Ahead
from retreever.training.validation import SCORES, Validation


@dataclass(frozen=True)
class Report:
    """What a validation found.

    Attributes:
        step: optimiser steps done.
        epoch: validations done, from 1.
        metrics: plain finite numbers by name; `ndcg_at_10` is the last level's on dev, `ndcg_at_10/level_06` another's.
        warnings: named failure signatures (METHOD: collapse, near-uniform routing, useless coarse levels).
        best: no validation before this one was better.
        last: training ends with this report.
        checkpoint: folder with the full state, on rank 0 and for a moment only on others.
    """

    step: int
    epoch: int
    metrics: dict[str, float]
    warnings: list[str]
    best: bool
    last: bool
    checkpoint: Path


@dataclass
class Result:
    """A finished training: the folder of the best model, its figures, and every validation's."""

    model: Path
    best: dict[str, float]
    history: list[dict[str, float]] = field(default_factory=list)


def epochs(
    config: Config,
    data: EncodedDataset,
    folder: Path,
    *,
    device: str = "cpu",
    track: Track = silent,
    urgent: Callable[[int], bool] = lambda step: False,
    saved: Callable[[Path], object] = lambda checkpoint: None,
) -> Iterator[Report]:
    """Train in `folder`, resuming what is there, and yield a report after every validation.

    Args:
        folder: holds `checkpoint/` (full state of the last two validations) and, once done, `model/` (the best).
        track: shows steps; called once for each stretch between validations.
        urgent: asked after every step whether the state must be saved at once; all workers must get the same answer.
        saved: told of every checkpoint, on the worker that wrote it.

    Raises:
        BundleError: every checkpoint in the folder is damaged.
        ConfigError: the folder holds a run of another configuration.
        DataError: the data set has no train or no dev pairs.
        TrainingError: the loss is no longer finite.
    """
    run = _Run(config, data, folder, device, saved)
    try:
        while not run.done:
            run.train(track, urgent)
            yield run.validate()
        run.finish()
    finally:
        run.batches.close()


def fit(
    config: Config,
    data: EncodedDataset,
    folder: Path,
    *,
    report: Callable[[Report], object] = lambda report: None,
    device: str = "cpu",
    track: Track = silent,
) -> Result:
    """Train to the end, handing every report to `report`; see `epochs`."""
    for each in epochs(config, data, folder, device=device, track=track):
        report(each)
    return result(folder)


def result(folder: Path) -> Result:
    """What a finished training left in `folder`.

    Raises:
        BundleError: nothing finished is there.
    """
    state = checkpoint.read_state(folder / "checkpoint")
    return Result(folder / "model", state.best, state.history)


class _Run:
    """One training in progress."""

    def __init__(
        self, config: Config, data: EncodedDataset, folder: Path, device: str, saved: Callable[[Path], object]
    ):
        self.config, self.data, self.folder, self.device, self.saved = config, data, folder, device, saved
        self.pairs = limit(data.dataset.pairs("train"), config.data.max_pairs, config.train.seed)
        self.batch_size = min(config.train.batch_size, len(self.pairs))
        self._check()
        self.tokens = config.tree.split == "cross_attention"
        self.validation = Validation(config, data, self.pairs, device)
        self.learner = self._build()
        self.optimizer = optimizer_of(self.learner, config)
        self.state = checkpoint.State(config_digest=config.digest)
        left = distributed.agree(lambda: checkpoint.latest(folder / "checkpoint", config))
        if left:
            self.state = left.restore(self.learner, self.optimizer)
        self.figures: dict[str, float] = {}
        self.batches = Ahead(self._load, config.train.steps * config.train.accumulate)
        self.parallel: nn.Module = self.learner
        if distributed.world_size() > 1:
            self.parallel = DistributedDataParallel(self.learner)

    def _check(self) -> None:
        size = distributed.world_size()
        if self.batch_size < max(2, size):
            raise TrainingError(
                f"train.batch_size: {size} workers need a batch of {max(2, size)} pairs or more, it has "
                f"{self.batch_size}"
            )

    def _build(self) -> Learner:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.train.seed)
            learner = learner_of(self.config, self.data.dim, self.device)
            self._calibrate(learner.tree)
        return learner.to(self.device)

    def _calibrate(self, tree: RoutingTree) -> None:
        """Start balanced on the passages of the first global batch, the same on every worker."""
        rows = self.pairs[batch_rows(len(self.pairs), self.batch_size, 0, self.config.train.seed)]
        tree.calibrate(*self.data.passages.batch(rows[:, 1], self.tokens))

    @property
    def done(self) -> bool:
        return self.state.step >= self.config.train.steps or self.state.stopped

    def train(self, track: Track, urgent: Callable[[int], bool]) -> None:
        """Steps up to the next validation."""
        train = self.config.train
        end = min(train.steps, (self.state.step // train.eval_every + 1) * train.eval_every)
        self.parallel.train()
        losses = [torch.tensor(loss, device=self.device) for loss in self.state.losses]
        started, first = time.monotonic(), self.state.step
        for step in track(range(first, end), "training", total=end - first):
            losses.append(self._step(step))
            self.state.step = step + 1
            if urgent(step + 1) and step + 1 < end:
                self._save_within(losses)
        seconds = time.monotonic() - started
        self.state.seconds += seconds
        self.state.losses = []
        loss = distributed.mean(torch.stack(losses).mean()).item()
        if not math.isfinite(loss):
            raise TrainingError(
                f"loss is {loss} before step {end} (seed {train.seed}): lower train.lr ({train.lr}) or loss.scale "
                f"({self.config.loss.scale})"
            )
        self.figures = {
            "loss": loss,
            "pairs_per_second": (end - first) * train.accumulate * self.batch_size / max(seconds, 1e-9),
        }

    def _save_within(self, losses: list[Tensor]) -> None:
        """Save between two validations, with the losses since the last one."""
        self.state.losses = distributed.mean(torch.stack(losses)).tolist()
        self._save(best=False)

    def _save(self, best: bool) -> None:
        if distributed.rank() == 0:
            folder = self.folder / "checkpoint"
            checkpoint.save(folder, self.learner, self.optimizer, self.state, self.config, best)
            self.saved(checkpoint.place(folder, self.state.step))

    def _step(self, step: int) -> Tensor:
        train = self.config.train
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.config)
        self.optimizer.zero_grad(set_to_none=True)
        batches = range(step * train.accumulate, (step + 1) * train.accumulate)
        losses = [self._backward(batch, step, last=batch == batches[-1]) for batch in batches]
        nn.utils.clip_grad_norm_(self.learner.parameters(), train.clip_norm)
        self.optimizer.step()
        self.learner.loss.clamp_()
        return torch.stack(losses).sum()

    def _backward(self, number: int, step: int, last: bool) -> Tensor:
        """Add the gradient of a batch; workers exchange theirs after the last one of a step."""
        seed = self.config.train.seed
        rows, queries, passages = self.batches(number)
        apart = self.parallel.no_sync() if isinstance(self.parallel, DistributedDataParallel) and not last else None
        with (
            torch.random.fork_rng(devices=[] if self.device == "cpu" else [torch.device(self.device)]),
            apart or contextlib.nullcontext(),
        ):
            torch.manual_seed(step_seed(seed, number))
            keep = self._masks(rows)
            torch.manual_seed(step_seed(seed, number, 1 + distributed.rank()))
            loss = self.parallel(queries, passages, self._levels(step), keep) / self.config.train.accumulate
            loss.backward()
        return loss.detach()

    def _load(self, number: int) -> tuple[np.ndarray, Batch, Batch]:
        """Rows of a global batch, and this worker's share of its encodings; called in a thread of its own."""
        rows = self.pairs[batch_rows(len(self.pairs), self.batch_size, number, self.config.train.seed)]
        mine = rows[distributed.share(len(rows))]
        return rows, self._batch(mine, 0), self._batch(mine, 1)

    def _levels(self, step: int) -> tuple[int, ...]:
        depth, train = self.config.depth, self.config.train
        return levels_at(
            depth.scheduler,
            self.config.tree.depth,
            step,
            train.steps,
            train.seed,
            depth.levels,
            depth.warmup_fraction,
        )

    def _masks(self, rows: np.ndarray) -> Masks:
        queries, passages = torch.from_numpy(rows[:, 0].copy()), torch.from_numpy(rows[:, 1].copy())
        draw = torch.default_generator
        negatives = self.config.loss.negatives
        keep_queries = negatives_mask(passages, queries, negatives, draw).to(self.device)
        if negatives is None:
            return keep_queries, None  # the same pairs count in both directions
        return keep_queries, negatives_mask(queries, passages, negatives, draw).to(self.device)

    def _batch(self, rows: np.ndarray, column: int) -> Batch:
        encodings = (self.data.queries, self.data.passages)[column]
        x, mask = encodings.batch(rows[:, column], self.tokens, torch.bfloat16)
        if self.device == "cpu" or x.device.type != "cpu":
            return x, mask
        return x.pin_memory(), None if mask is None else mask.pin_memory()

    def validate(self) -> Report:
        """Figures on dev; state written; on rank 0 the best model kept."""
        started = time.monotonic()
        outcome = self.validation.run(self.learner.tree)
        state, train = self.state, self.config.train
        metrics = self.figures | outcome.metrics
        metrics |= {"scale": self.learner.loss.scale, "lr": learning_rate(state.step - 1, self.config)}
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
            self.validation.write_scores(outcome, self.folder / SCORES)
        self._save(best)
        return Report(
            state.step,
            len(state.history),
            metrics,
            outcome.warnings + state.notes,
            best,
            self.done,
            checkpoint.place(self.folder / "checkpoint", state.step),
        )

    def finish(self) -> None:
        """Put the best model where it is looked for."""
        if distributed.rank() == 0:
            checkpoint.export_best(self.folder / "checkpoint", self.folder / "model")


def step_seed(seed: int, step: int, stream: int = 0) -> int:
    """Seed of a step's random numbers: a pure function, so that a resumed run draws the same ones.

    `stream` 0 is shared by all workers (negatives), 1 + rank is a worker's own (dropout).
    """
    return (seed * 1_000_003 + step * 1_009 + stream * 7_368_787) % 2**63
