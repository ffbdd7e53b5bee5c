"""Training a routing tree on encodings: plain torch, on a laptop or as one of many workers.

`epochs` is a generator that trains up to the next validation, yields its figures and goes on when asked, so that a
notebook, a Ray Train worker and a Tune trial drive the same loop. Everything random in a step is a pure function of
(seed, step, rank); with the state kept in `checkpoint.py` a resumed run repeats an uninterrupted one to the bit.
What is not known here: Ray, MLflow, files other than the run's own folder.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from retreever import checkpoint, distributed
from retreever.config import Config
from retreever.data.pairs import batch_rows, limit
from retreever.encodings import EncodedDataset
from retreever.errors import TrainingError
from retreever.model import ContrastiveLoss, RoutingTree, levels_at, negatives_mask
from retreever.progress import Track, silent
from retreever.validation import SCORES, Validation

METRIC = "ndcg_at_10"


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


class Learner(nn.Module):
    """Tree and loss as one module, so that data parallelism wraps a single forward pass."""

    def __init__(self, tree: RoutingTree, loss: ContrastiveLoss, input_dropout: float, autocast: bool):
        super().__init__()
        self.tree, self.loss = tree, loss
        self.dropout = nn.Dropout(input_dropout)
        self.autocast = autocast

    def forward(self, queries: "Batch", passages: "Batch", levels: tuple[int, ...], keep: "Masks") -> Tensor:
        """Mean loss over `levels` of this worker's rows against the rows of all workers."""
        depth = max(levels)
        q, p = self._route(queries, depth), self._route(passages, depth)
        offset = distributed.rank() * len(q)
        losses = []
        for level in levels:
            ql, pl = self.tree.level(q, level), self.tree.level(p, level)
            everyone = {}
            if distributed.world_size() > 1:
                everyone = {"all_queries": distributed.gather(ql), "all_passages": distributed.gather(pl)}
            losses.append(self.loss(ql, pl, keep_queries=keep[0], keep_passages=keep[1], offset=offset, **everyone))
        return torch.stack(losses).mean()

    def _route(self, batch: "Batch", depth: int) -> Tensor:
        x, mask = batch
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            return self.tree(self.dropout(x), mask, depth)


Batch = tuple[Tensor, Tensor | None]
"""Encodings, and which of them are tokens (None: pooled)."""

Masks = tuple[Tensor, Tensor | None]
"""Pairs of the global batch that count, query -> passage and passage -> query (None: the first, transposed)."""


def epochs(
    config: Config, data: EncodedDataset, folder: Path, *, device: str = "cpu", track: Track = silent
) -> Iterator[Report]:
    """Train in `folder`, resuming what is there, and yield a report after every validation.

    Args:
        folder: holds `checkpoint/` (full state, replaced at every validation) and, once done, `model/` (the best).
        track: shows steps; called once for each stretch between validations.

    Raises:
        ConfigError: the folder holds a run of another configuration.
        DataError: the data set has no train or no dev pairs.
        TrainingError: the loss is no longer finite.
    """
    run = _Run(config, data, folder, device)
    while not run.done:
        run.train(track)
        yield run.validate()
    run.finish()


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

    def __init__(self, config: Config, data: EncodedDataset, folder: Path, device: str):
        self.config, self.data, self.folder, self.device = config, data, folder, device
        self.pairs = limit(data.dataset.pairs("train"), config.data.max_pairs, config.train.seed)
        self.batch_size = min(config.train.batch_size, len(self.pairs))
        self._check()
        self.tokens = config.tree.split == "cross_attention"
        self.validation = Validation(config, data, self.pairs, device)
        self.learner = self._build()
        self.optimizer = _optimizer(self.learner, config)
        self.state = checkpoint.State(config_digest=config.digest)
        if (folder / "checkpoint").is_dir():
            self.state = checkpoint.load(folder / "checkpoint", self.learner, self.optimizer, config)
        self.figures: dict[str, float] = {}
        self.parallel: nn.Module = self.learner
        if distributed.world_size() > 1:
            self.parallel = DistributedDataParallel(self.learner)

    def _check(self) -> None:
        size = distributed.world_size()
        self.batch_size -= self.batch_size % size
        if self.batch_size < 2 * size:
            raise TrainingError(
                f"train.batch_size: {size} workers need a batch of {2 * size} pairs or more, it has {self.batch_size}"
            )

    def _build(self) -> Learner:
        config = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            tree = RoutingTree(self.data.dim, **config.tree.model_dump())
            loss = ContrastiveLoss(**config.loss.model_dump(exclude={"negatives"}))
            self._calibrate(tree)
        gpu = self.device != "cpu"
        autocast = config.train.precision == "bfloat16" or (config.train.precision == "auto" and gpu)
        return Learner(tree, loss, config.train.input_dropout, autocast).to(self.device)

    def _calibrate(self, tree: RoutingTree) -> None:
        """Start balanced on the passages of the first global batch, the same on every worker."""
        rows = self.pairs[batch_rows(len(self.pairs), self.batch_size, 0, self.config.train.seed)]
        tree.calibrate(*self.data.passages.batch(rows[:, 1], self.tokens))

    @property
    def done(self) -> bool:
        return self.state.step >= self.config.train.steps or self.state.stopped

    def train(self, track: Track) -> None:
        """Steps up to the next validation."""
        train = self.config.train
        end = min(train.steps, (self.state.step // train.eval_every + 1) * train.eval_every)
        self.parallel.train()
        losses, started, first = [], time.monotonic(), self.state.step
        for step in track(range(first, end), "training", total=end - first):
            losses.append(self._step(step))
            self.state.step = step + 1
        seconds = time.monotonic() - started
        self.state.seconds += seconds
        loss = distributed.mean(torch.stack(losses).mean()).item()
        if not math.isfinite(loss):
            raise TrainingError(
                f"loss is {loss} before step {end} (seed {train.seed}): lower train.lr ({train.lr}) or loss.scale "
                f"({self.config.loss.scale})"
            )
        self.figures = {
            "loss": loss,
            "pairs_per_second": (end - first) * self.batch_size / max(seconds, 1e-9),
        }

    def _step(self, step: int) -> Tensor:
        config = self.config
        rows = self.pairs[batch_rows(len(self.pairs), self.batch_size, step, config.train.seed)]
        with torch.random.fork_rng(devices=[] if self.device == "cpu" else [torch.device(self.device)]):
            torch.manual_seed(step_seed(config.train.seed, step))
            keep = self._masks(rows)
            torch.manual_seed(step_seed(config.train.seed, step, 1 + distributed.rank()))
            mine = rows[distributed.share(len(rows))]
            loss = self.parallel(self._batch(mine, 0), self._batch(mine, 1), self._levels(step), keep)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.learner.parameters(), config.train.clip_norm)
        self.optimizer.step()
        self.learner.loss.clamp_()
        return loss.detach()

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
        x, mask = encodings.batch(rows[:, column], self.tokens)
        return x.to(self.device), None if mask is None else mask.to(self.device)

    def validate(self) -> Report:
        """Figures on dev; state written; on rank 0 the best model kept."""
        started = time.monotonic()
        outcome = self.validation.run(self.learner.tree)
        state, train = self.state, self.config.train
        metrics = self.figures | outcome.metrics
        metrics |= {"scale": self.learner.loss.scale, "lr": learning_rate(state.step - 1, self.config)}
        metrics |= {"seconds": state.seconds, "validation_seconds": time.monotonic() - started}
        metrics |= {"step": float(state.step)}
        best = not state.best or metrics[METRIC] > state.best[METRIC]
        if best:
            state.best, state.since_best = metrics, 0
        else:
            state.since_best += 1
        state.history.append(metrics)
        state.stopped = train.patience is not None and state.since_best >= train.patience
        if distributed.rank() == 0:
            if best:
                self.validation.write_scores(outcome, self.folder / SCORES)
            checkpoint.save(self.folder / "checkpoint", self.learner, self.optimizer, state, self.config, best)
        return Report(
            state.step,
            len(state.history),
            metrics,
            outcome.warnings,
            best,
            self.done,
            self.folder / "checkpoint",
        )

    def finish(self) -> None:
        """Put the best model where it is looked for."""
        if distributed.rank() == 0:
            checkpoint.export_best(self.folder / "checkpoint", self.folder / "model")


def _optimizer(learner: Learner, config: Config) -> torch.optim.AdamW:
    """AdamW; offsets, biases and the scale are not decayed, since their size is no sign of over-fitting."""
    train = config.train
    named = list(learner.named_parameters())
    decayed = [p for _, p in named if p.ndim > 1]
    others = [p for _, p in named if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": train.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=train.lr, betas=(train.beta1, train.beta2), eps=train.eps)


def learning_rate(step: int, config: Config) -> float:
    """Linear warm-up to `train.lr`, then linear decay to zero at the last step.

    >>> config = Config().with_overrides({"train.steps": 100, "train.lr": 1.0, "train.warmup_fraction": 0.1})
    >>> learning_rate(4, config), learning_rate(9, config), learning_rate(55, config)
    (0.5, 1.0, 0.5)
    """
    train = config.train
    warmup = round(train.steps * train.warmup_fraction)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    return train.lr * (train.steps - step) / max(1, train.steps - warmup)


def step_seed(seed: int, step: int, stream: int = 0) -> int:
    """Seed of a step's random numbers: a pure function, so that a resumed run draws the same ones.

    `stream` 0 is shared by all workers (negatives), 1 + rank is a worker's own (dropout).
    """
    return (seed * 1_000_003 + step * 1_009 + stream * 7_368_787) % 2**63
