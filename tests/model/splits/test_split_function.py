import pytest
import torch
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from retreever.model import LinearSplit
from retreever.model.splits import attention
from tests.support.trees import build_attention, build_mlp

DIM, OUTPUTS = 6, 7
SMALL = {"d_emb": 4, "d_k": 6, "embedding_std": 1.0, "dropout": 0.0}
KINDS = {
    "linear": lambda: LinearSplit(DIM, OUTPUTS),
    "mlp": lambda: build_mlp(DIM, OUTPUTS, hidden=5, dropout=0.0),
    "full": lambda: build_attention(DIM, OUTPUTS, heads=2, values="full", **SMALL),
    "projected": lambda: build_attention(DIM, OUTPUTS, heads=2, values="projected", **SMALL),
    "many_embeddings": lambda: build_attention(DIM, OUTPUTS, heads=3, embeddings=2, values="full", **SMALL),
}
ATTENTION = [name for name in KINDS if name not in ("linear", "mlp")]


def build(kind):
    torch.manual_seed(0)
    split = KINDS[kind]().double()
    torch.nn.init.normal_(split.offset)
    return split


def tokens(batch=5, length=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, length, DIM, generator=generator, dtype=torch.float64)
    mask = torch.rand(batch, length, generator=generator) < 0.6
    mask[:, 1] = True
    return x, mask


def attend_by_definition(split, x, mask):
    """Cross-attention as the paper writes it: values of every token, heads concatenated, a linear map per node."""
    heads, outputs, width = split.readout.shape
    d_head = split.key.weight.shape[0] // heads
    scores = torch.zeros(len(x), outputs, dtype=x.dtype)
    for b in range(len(x)):
        seen = x[b, mask[b]]
        for t in range(outputs):
            for embedding in split.embeddings[t]:
                query, keys = split.query(embedding).view(heads, d_head), split.key(seen).view(-1, heads, d_head)
                values = seen.expand(heads, -1, -1) if split.value is None else split.value(seen)
                values = values.view(-1, heads, width).transpose(0, 1) if split.value is not None else values
                attended = []
                for h in range(heads):
                    weights = (keys[:, h] @ query[h] / d_head**0.5).softmax(0)
                    attended.append(weights @ values[h])
                scores[b, t] += torch.cat(attended) @ split.readout[:, t].flatten() / len(split.embeddings[t])
    return scores + split.offset


@pytest.mark.parametrize("batch", [5, 32])  # 32 texts have another memory layout
@pytest.mark.parametrize("kind", ATTENTION)
def test_attention_equals_its_definition(kind, batch):
    split, (x, mask) = build(kind), tokens(batch)
    expected = attend_by_definition(split, x, mask)
    found = split(x, mask)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    slow = torch.autograd.grad((expected * weight).sum(), list(split.parameters()))
    fast = torch.autograd.grad((found * weight).sum(), list(split.parameters()))
    for name, a, b in zip(dict(split.named_parameters()), slow, fast, strict=True):
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind):
    split, (x, mask) = build(kind), tokens(batch=3, length=3)
    assert gradcheck(lambda x, *_: split(x, mask), (x.requires_grad_(), *split.parameters()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_of_the_outputs_is_a_prefix_of_the_scores(kind):
    split, (x, mask) = build(kind), tokens()
    torch.testing.assert_close(split(x, mask, 3), split(x, mask)[:, :3])


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_do_not_count_change_nothing(kind):
    split, (x, mask) = build(kind), tokens()
    other = torch.where(mask.unsqueeze(2), x, 100.0)
    torch.testing.assert_close(split(other, mask), split(x, mask))
    torch.testing.assert_close(split(x[:, [3, 1, 0, 2]], mask[:, [3, 1, 0, 2]]), split(x, mask))


@pytest.mark.parametrize("kind", ATTENTION)
def test_a_text_scores_the_same_alone_and_among_many(kind):
    split, (x, mask) = build(kind), tokens(batch=40, length=9)
    together = split(x, mask)
    for row in (0, 17, 39):
        torch.testing.assert_close(split(x[row : row + 1], mask[row : row + 1])[0], together[row])


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_token_states_are_pooled_by_their_mean(kind):
    split, (x, mask) = build(kind), tokens()
    mean = torch.stack([x[b, mask[b]].mean(0) for b in range(len(x))])
    torch.testing.assert_close(split(x, mask), split(mean))


@pytest.mark.parametrize("kind", ATTENTION)
def test_one_token_makes_attention_linear(kind):
    split, (x, _) = build(kind), tokens(length=2)
    one = torch.ones(len(x), 1, dtype=torch.bool)
    a, b = x[:, :1], x[:, 1:]
    torch.testing.assert_close(split(a, one) + split(b, one), split(a + b, one) + split.offset)


@pytest.mark.parametrize("build", [LinearSplit, build_mlp, build_attention])
def test_readouts_start_at_length_one(build):
    torch.manual_seed(0)
    readout = build(400, 50).readout
    lengths = readout.square().sum(-1).reshape(-1, 50).sum(0).sqrt()  # over all heads
    torch.testing.assert_close(lengths, torch.ones(50), atol=0.2, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_without_a_token_is_refused(kind):
    split, (x, mask) = build(kind), tokens()
    mask[2] = False
    with pytest.raises(ValueError, match=r"mask: .*rows \[2\]"):
        split(x, mask)


@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize("encoding", ["pooled", "tokens without mask"])
def test_attention_refuses_pooled_encodings(kind, encoding):
    x, _ = tokens()
    with pytest.raises(ValueError, match="cross_attention needs token states"):
        build(kind)(x[:, 0] if encoding == "pooled" else x)


def test_token_states_need_a_mask():
    with pytest.raises(ValueError, match="mask: "):
        build("linear")(tokens()[0])


def test_attention_drops_only_in_training():
    torch.manual_seed(0)
    split = build_attention(DIM, OUTPUTS, dropout=0.5).double()
    x, mask = tokens()
    assert not torch.equal(split(x, mask), split(x, mask))
    split.eval()
    assert torch.equal(split(x, mask), split(x, mask))


@pytest.mark.parametrize("batch", [3, 32])  # 32 texts have another memory layout
@pytest.mark.parametrize("at_once", [1, 2**22])  # heads one after another, and together
def test_gradients_with_dropout(batch, at_once, monkeypatch):
    monkeypatch.setattr(attention, "MAX_ATTENTION_WEIGHTS_ON_CPU", at_once)
    torch.manual_seed(0)
    split = build_attention(DIM, 2, heads=2, d_emb=3, d_k=4, dropout=0.4).double()
    x, mask = tokens(batch, length=2)

    def score_with_seed(*parameters):
        torch.manual_seed(1)
        return split(x, mask)

    assert gradcheck(score_with_seed, tuple(split.parameters()))


def test_dropout_keeps_the_mean():
    torch.manual_seed(0)
    split = build_attention(DIM, 2, heads=2, embedding_std=1.0, dropout=0.3).double()
    x, mask = tokens(batch=1)
    draws = split(x.expand(32 * 500, -1, -1), mask.expand(32 * 500, -1))
    split.eval()
    spread = draws.std(0) / len(draws) ** 0.5
    assert (spread > 0).all() and ((draws.mean(0) - split(x, mask)[0]).abs() < 5 * spread).all()


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return out


@pytest.mark.parametrize("values", ["full", "projected"])
def test_nothing_of_batch_by_nodes_by_width_is_built(values):
    batch, length, nodes, heads, d_k = 16, 3, 64, 2, 64
    split = build_attention(DIM, nodes, heads=heads, d_emb=16, d_k=d_k, values=values)
    with Largest() as largest:
        split(torch.randn(batch, length, DIM), torch.ones(batch, length, dtype=torch.bool)).sum().backward()
    assert largest.numbers <= heads * nodes * batch * length < batch * nodes * d_k / 10


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: LinearSplit(0, 3), "dim"),
        (lambda: build_mlp(4, 3, hidden=0), "hidden"),
        (lambda: build_mlp(4, 3, dropout=1.0), "mlp_dropout"),
        (lambda: build_attention(4, 3, heads=3, d_k=4), "d_k"),
        (lambda: build_attention(4, 3, values="half"), "values"),
        (lambda: build_attention(4, 3, embedding_std=0.0), "embedding_std"),
        (lambda: build_attention(4, 3, dropout=-0.1), "attention_dropout"),
        (lambda: LinearSplit(4, 3)(torch.ones(1, 4), outputs=4), "outputs"),
    ],
)
def test_bad_arguments_are_named(build, field):
    with pytest.raises(ValueError, match=f"^{field}: must .*got"):
        build()
