"""How fast is a training step? Every split function against what is possible and against rivals.

    python -m benchmarks.train_throughput              # all, about five minutes on two cores
    python -m benchmarks.train_throughput linear       # one split function

Pooled splits are timed with four levels together, as by default, with the last alone, and with one drawn a step, as
stochastic depth trains them. The rivals run in the same process, on the same random encodings, with the same
optimiser:

floor   the step's multiplications at the rate of a large matrix product, or its bytes at the rate of a copy, whichever
        takes longer, both measured here. Bytes are counted once: inputs, parameters with their gradients and moments.
naive   cross-attention as one would write it, which builds the attended values of every node: (batch, nodes, d_k). It
        takes our parameters and gives our scores; that is checked before it is timed.
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

from retreever.config import Config, EncoderConfig, build
from retreever.encoding.encoder import resolved_dtype
from retreever.model import RoutingTree, levels_at
from retreever.model.attention import CrossAttention
from retreever.system import memory
from retreever.training.learner import learner_of, optimizer_of

DIM, DEPTH, TOKENS = 384, 10, 128
SECONDS = 5.0
"""For which each contestant is timed, after one step to warm up."""
SCHEDULED = 200
"""Steps whose levels are drawn beforehand, enough to even them out."""


@dataclass(frozen=True)
class Pairs:
    """One batch: encodings of queries and passages, and their masks (None: pooled)."""

    queries: Tensor
    passages: Tensor
    mask: Tensor | None

    @classmethod
    def draw(cls, batch: int, tokens: bool) -> "Pairs":
        shape = (batch, TOKENS, DIM) if tokens else (batch, DIM)
        sides = [F.normalize(torch.randn(shape), dim=-1) for _ in range(2)]
        return cls(*sides, torch.ones(batch, TOKENS, dtype=torch.bool) if tokens else None)


class Naive(nn.Module):
    """Cross-attention by the book, on the parameters of ours."""

    def __init__(self, ours: CrossAttention):
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


def rate(step: Callable[[], object]) -> float:
    """Calls a second."""
    step()
    calls, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < SECONDS:
        step()
        calls += 1
    return calls / spent


def trainer(config: Config, pairs: Pairs, naive: bool = False) -> Callable[[], object]:
    """One training step of a tree, without reading data."""
    torch.manual_seed(0)
    learner = learner_of(config, DIM)
    tree = learner.tree
    if naive:
        assert isinstance(tree.split, CrossAttention)
        _check_same(tree, pairs)
        tree.split = Naive(tree.split)  # type: ignore[assignment]
    optimizer = optimizer_of(learner, config)
    keep = torch.ones(len(pairs.queries), len(pairs.queries), dtype=torch.bool)

    levels_of_steps = itertools.cycle(scheduled(config))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        levels = next(levels_of_steps)
        learner((pairs.queries, pairs.mask), (pairs.passages, pairs.mask), levels, (keep, None)).backward()
        nn.utils.clip_grad_norm_(learner.parameters(), config.train.clip_norm)
        optimizer.step()

    return step


def _check_same(tree: RoutingTree, pairs: Pairs) -> None:
    tree.eval()
    with torch.no_grad():
        x, mask, outputs = pairs.queries[:4], pairs.mask, tree.propagation.inputs
        assert mask is not None and isinstance(tree.split, CrossAttention)
        naive = Naive(tree.split).eval()(x, mask[:4], outputs)
        torch.testing.assert_close(tree.split(x, mask[:4]), naive, rtol=1e-3, atol=1e-4)
    tree.train()


def head(pairs: Pairs) -> Callable[[], object]:
    """One step of MultipleNegativesRankingLoss on a linear head, in a plain loop."""
    model, loss = _mnrl()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        features = [{"sentence_embedding": side} for side in (pairs.queries, pairs.passages)]
        loss(features, None).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def _mnrl():  # type: ignore[no-untyped-def]
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses, modules

    dense = modules.Dense(DIM, 2**DEPTH, bias=False, activation_function=nn.Identity())
    model = SentenceTransformer(modules=[dense], device="cpu")
    return model, losses.MultipleNegativesRankingLoss(model)


def scheduled(config: Config) -> list[tuple[int, ...]]:
    """Levels of the first steps, as the scheduler has them: as many as even out what it draws."""
    depth = config.depth
    return [
        levels_at(depth.scheduler, DEPTH, step, SCHEDULED, seed=0, levels=depth.levels) for step in range(SCHEDULED)
    ]


def floor(config: Config, batch: int) -> float:
    """Steps a second at which this machine could do no better."""
    works = [work(config, batch, levels) for levels in scheduled(config)]
    return len(works) / sum(max(flops / matrix_rate(), moved / copy_rate()) for flops, moved in works)


def work(config: Config, batch: int, levels: tuple[int, ...]) -> tuple[float, float]:
    """Floating-point operations and bytes of a step. Encodings are frozen: they get no gradient."""
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
    parameters = sum(p.numel() for p in RoutingTree(DIM, **tree.model_dump()).parameters())
    return flops, 4 * (inputs + 8 * parameters)


@functools.cache
def matrix_rate(size: int = 2048) -> float:
    """Floating-point operations a second of a large matrix product: in bfloat16 where the processor multiplies it."""
    dtype = resolved_dtype(EncoderConfig())
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    a[:64] @ b
    return max(2 * size**3 / _seconds(lambda: a @ b) for _ in range(3))


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


@functools.cache
def copy_rate(count: int = 2**26) -> float:
    """Bytes a second that a copy reads and writes."""
    a, b = torch.randn(count), torch.empty(count)
    b.copy_(a)
    return max(2 * 4 * count / _seconds(lambda: b.copy_(a)) for _ in range(5))


def settings(**tree: object) -> Config:
    """The defaults with another tree, and no dropout of encodings."""
    tree = {"depth": DEPTH, **tree}
    return build({"tree": tree, "depth": {"levels": [4, 6, 8, 10]}, "train": {"input_dropout": 0.0}})


def main() -> None:
    """Print one table a split function."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("splits", nargs="*", default=["linear", "mlp", "cross_attention"])
    chosen = parser.parse_args().splits
    memory.keep_freed()  # as `retreever train` does; the rivals have it too
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, ", end="")
    print(f"matrix product {matrix_rate() / 1e9:.0f} GFLOP/s, copy {copy_rate() / 1e9:.1f} GB/s")
    for split in chosen:
        if split == "cross_attention":
            attention()
        else:
            pooled(split)


def pooled(split: str, batch: int = 1024) -> None:
    """A split function on pooled encodings, against the floor and the head."""
    config, pairs = settings(split=split), Pairs.draw(batch, tokens=False)
    ours, best, head_rate = rate(trainer(config, pairs)), floor(config, batch), rate(head(pairs))
    show(f"{split}, batch {batch}, levels 4, 6, 8, 10", ours, batch, {"floor": best, "MNRL": head_rate})
    for scheduler in ("constant", "random_square", "random_uniform"):
        single = config.with_overrides({"depth.levels": None, "depth.scheduler": scheduler})
        rivals = {"floor": floor(single, batch), "MNRL": head_rate}
        show(f"{split}, batch {batch}, {scheduler}", rate(trainer(single, pairs)), batch, rivals)


def attention(batch: int = 256) -> None:
    """Cross-attention, with values at the encoder's width and as in the paper, against the floor and the naive form."""
    pairs = Pairs.draw(batch, tokens=True)
    for values in ("full", "projected"):
        config = settings(split="cross_attention", values=values)
        rivals = {"floor": floor(config, batch), "naive": rate(trainer(config, pairs, naive=True))}
        show(f"cross_attention, values {values}, batch {batch}", rate(trainer(config, pairs)), batch, rivals)


def show(title: str, ours: float, batch: int, rivals: dict[str, float]) -> None:
    """Print ours and how it compares."""
    print(f"{title}: {ours:.2f} steps/s, {ours * batch:,.0f} pairs/s")
    for name, theirs in rivals.items():
        print(f"    {name}: {theirs:.2f} steps/s; ours / {name} = {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
