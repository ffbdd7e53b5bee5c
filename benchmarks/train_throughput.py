"""How fast is a training step? Every split function against the machine's limits and baselines.

    python -m benchmarks.train_throughput              # all, about five minutes on two cores
    python -m benchmarks.train_throughput linear       # one split function

Pooled splits are timed with four levels per step, as by default, with the last level alone, and with one random level
per step, as in stochastic depth. The baselines run in the same process, on the same random encodings, with the same
optimiser:

bound   upper bound of the rate: the step's multiplications at the rate of a large matrix product, or its bytes at the
        rate of a copy, whichever takes longer; both rates are measured here. Bytes are counted once: inputs, and
        parameters with their gradients and moments.
naive   direct cross-attention, which builds the attended values of every node: (batch, nodes, d_k). It shares our
        parameters and must give our scores; that is checked before the timing.
MNRL    sentence-transformers' MultipleNegativesRankingLoss on a linear head of 2**depth outputs, in this loop.
"""

import argparse
import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retreever.config import Config, EncoderConfig, build_config
from retreever.encoding.encoder_files import resolve_dtype
from retreever.model import RoutingTree, levels_at_step
from retreever.model.splits.attention import CrossAttentionSplit
from retreever.system import memory
from retreever.training.learner import build_learner, build_optimizer

DIM, DEPTH, TOKENS = 384, 10, 128
TIMED_SECONDS = 5.0
"""Time limit per system, after one warm-up step."""
SCHEDULED_STEPS = 200
"""Steps whose levels are drawn beforehand, enough to average over them."""


@dataclass(frozen=True)
class PairBatch:
    """One batch: encodings of queries and passages, and their masks (None: pooled)."""

    queries: Tensor
    passages: Tensor
    mask: Tensor | None

    @classmethod
    def draw(cls, batch: int, tokens: bool) -> "PairBatch":
        shape = (batch, TOKENS, DIM) if tokens else (batch, DIM)
        queries, passages = (F.normalize(torch.randn(shape), dim=-1) for _ in range(2))
        return cls(queries, passages, torch.ones(batch, TOKENS, dtype=torch.bool) if tokens else None)


class NaiveAttention(nn.Module):
    """Direct cross-attention on our parameters."""

    def __init__(self, ours: CrossAttentionSplit):
        super().__init__()
        self.ours = ours
        self.offset = ours.offset

    def forward(self, x: Tensor, mask: Tensor, outputs: int) -> Tensor:
        """Scores (batch, outputs)."""
        ours = self.ours
        queries = ours.query(ours.embeddings[:outputs, 0]).unflatten(-1, (ours.heads, -1))
        keys = ours.key(x).unflatten(-1, (ours.heads, -1))
        logits = torch.einsum("nhd,bthd->bhnt", queries, keys) / queries.shape[-1] ** 0.5
        weights = logits.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
        weights = F.dropout(weights, ours.dropout, self.training)
        if ours.value is None:
            attended = torch.einsum("bhnt,btd->bnhd", weights, x)
        else:
            attended = torch.einsum("bhnt,bthd->bnhd", weights, ours.value(x).unflatten(-1, (ours.heads, -1)))
        return torch.einsum("bnhd,hnd->bn", attended, ours.readout[:, :outputs]) + self.offset[:outputs]


def measure_rate(step: Callable[[], object]) -> float:
    """Calls of `step` per second."""
    step()
    calls, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < TIMED_SECONDS:
        step()
        calls += 1
    return calls / spent


def make_tree_step(config: Config, pairs: PairBatch, naive: bool = False) -> Callable[[], object]:
    """Make a function that runs one training step of a tree, without reading data."""
    torch.manual_seed(0)
    learner = build_learner(config, DIM)
    tree = learner.tree
    if naive:
        assert isinstance(tree.split, CrossAttentionSplit)
        _check_same(tree, pairs)
        tree.split = NaiveAttention(tree.split)
    optimizer = build_optimizer(learner, config)
    keep = torch.ones(len(pairs.queries), len(pairs.queries), dtype=torch.bool)

    levels_of_steps = itertools.cycle(list_scheduled_levels(config))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        levels = next(levels_of_steps)
        learner((pairs.queries, pairs.mask), (pairs.passages, pairs.mask), levels, (keep, None)).backward()
        nn.utils.clip_grad_norm_(learner.parameters(), config.train.clip_norm)
        optimizer.step()

    return step


def _check_same(tree: RoutingTree, pairs: PairBatch) -> None:
    tree.eval()
    with torch.no_grad():
        x, mask, outputs = pairs.queries[:4], pairs.mask, tree.propagation.inputs
        assert mask is not None and isinstance(tree.split, CrossAttentionSplit)
        naive = NaiveAttention(tree.split).eval()(x, mask[:4], outputs)
        torch.testing.assert_close(tree.split(x, mask[:4]), naive, rtol=1e-3, atol=1e-4)
    tree.train()


def make_head_step(pairs: PairBatch) -> Callable[[], object]:
    """Make a function that runs one step of MultipleNegativesRankingLoss on a linear head."""
    model, loss = _mnrl()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        features = [{"sentence_embedding": side} for side in (pairs.queries, pairs.passages)]
        loss(features, None).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def _mnrl():
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses, modules

    dense = modules.Dense(DIM, 2**DEPTH, bias=False, activation_function=nn.Identity())
    model = SentenceTransformer(modules=[dense], device="cpu")
    return model, losses.MultipleNegativesRankingLoss(model)


def list_scheduled_levels(config: Config) -> list[tuple[int, ...]]:
    """List the levels that the scheduler gives each of the first steps."""
    depth = config.depth
    return [
        levels_at_step(
            depth.scheduler,
            DEPTH,
            step,
            SCHEDULED_STEPS,
            seed=0,
            levels=depth.levels,
            warmup_fraction=depth.warmup_fraction,
        )
        for step in range(SCHEDULED_STEPS)
    ]


def compute_rate_bound(config: Config, batch: int) -> float:
    """Compute the upper bound of steps per second on this machine."""
    works = [count_work(config, batch, levels) for levels in list_scheduled_levels(config)]
    return len(works) / sum(max(flops / measure_matrix_rate(), moved / measure_copy_rate()) for flops, moved in works)


def count_work(config: Config, batch: int, levels: tuple[int, ...]) -> tuple[float, float]:
    """Count the floating-point operations and bytes of a step. Encodings are frozen: they get no gradient."""
    tree, texts, nodes = config.tree, 2 * batch, 2 ** max(levels) - 1
    if tree.split == "cross_attention":
        tokens = texts * TOKENS
        keys, logits = 2 * tokens * DIM * tree.d_k, 2 * tokens * nodes * tree.d_k
        width = tree.heads * DIM if tree.values == "full" else tree.d_k
        values = 2 * tokens * nodes * width
        flops = 2 * keys + 3 * logits + (2 if tree.values == "full" else 3) * values
        flops += 0 if tree.values == "full" else 2 * keys
        inputs = tokens * DIM
    else:
        inner = tree.hidden if tree.split == "mlp" else DIM
        flops = (3 if tree.split == "mlp" else 2) * 2 * texts * inner * nodes
        flops += 2 * 2 * texts * DIM * inner if tree.split == "mlp" else 0
        inputs = texts * DIM
    flops += sum(3 * 2 * batch * batch * 2**level for level in levels)
    parameters = sum(p.numel() for p in RoutingTree(DIM, **tree.architecture()).parameters())
    return flops, 4 * (inputs + 8 * parameters)


@functools.cache
def measure_matrix_rate(size: int = 2048) -> float:
    """Floating-point operations per second of a large matrix product, in bfloat16 where the processor supports it."""
    dtype = getattr(torch, resolve_dtype(EncoderConfig()))
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    a[:64] @ b
    return max(2 * size**3 / _time_call(lambda: a @ b) for _ in range(3))


def _time_call(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


@functools.cache
def measure_copy_rate(count: int = 2**26) -> float:
    """Bytes per second that a copy reads and writes."""
    a, b = torch.randn(count), torch.empty(count)
    b.copy_(a)
    return max(2 * 4 * count / _time_call(lambda: b.copy_(a)) for _ in range(5))


def make_config(**tree: object) -> Config:
    """Make the default configuration with another tree, and without dropout of encodings."""
    tree = {"depth": DEPTH, **tree}
    return build_config({"tree": tree, "depth": {"levels": [4, 6, 8, 10]}, "train": {"input_dropout": 0.0}})


def main() -> None:
    """Print one table per split function."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("splits", nargs="*", default=["linear", "mlp", "cross_attention"])
    chosen = parser.parse_args().splits
    memory.keep_freed_memory()  # as `retreever train` does; it holds for the baselines too
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, ", end="")
    print(f"matrix product {measure_matrix_rate() / 1e9:.0f} GFLOP/s, copy {measure_copy_rate() / 1e9:.1f} GB/s")
    for split in chosen:
        if split == "cross_attention":
            compare_attention()
        else:
            compare_pooled(split)


def compare_pooled(split: str, batch: int = 1024) -> None:
    """Time a split function on pooled encodings against the bound and the head."""
    config, pairs = make_config(split=split), PairBatch.draw(batch, tokens=False)
    ours, best, head_rate = (
        measure_rate(make_tree_step(config, pairs)),
        compute_rate_bound(config, batch),
        measure_rate(make_head_step(pairs)),
    )
    print_rates(f"{split}, batch {batch}, levels 4, 6, 8, 10", ours, batch, {"bound": best, "MNRL": head_rate})
    for scheduler in ("constant", "random_square", "random_uniform"):
        single = config.with_overrides({"depth.levels": None, "depth.scheduler": scheduler})
        baselines = {"bound": compute_rate_bound(single, batch), "MNRL": head_rate}
        print_rates(
            f"{split}, batch {batch}, {scheduler}", measure_rate(make_tree_step(single, pairs)), batch, baselines
        )


def compare_attention(batch: int = 256) -> None:
    """Time cross-attention, with full values and as in the paper, against the bound and the naive form."""
    pairs = PairBatch.draw(batch, tokens=True)
    for values in ("full", "projected"):
        config = make_config(split="cross_attention", values=values)
        baselines = {
            "bound": compute_rate_bound(config, batch),
            "naive": measure_rate(make_tree_step(config, pairs, naive=True)),
        }
        print_rates(
            f"cross_attention, values {values}, batch {batch}",
            measure_rate(make_tree_step(config, pairs)),
            batch,
            baselines,
        )


def print_rates(title: str, ours: float, batch: int, baselines: dict[str, float]) -> None:
    """Print our rate, the others', and the ratios."""
    print(f"{title}: {ours:.2f} steps/s, {ours * batch:,.0f} pairs/s")
    for name, theirs in baselines.items():
        print(f"    {name}: {theirs:.2f} steps/s; ours / {name} = {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
