"""The training loop: trees learn, runs resume to the bit, and wrong input is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from retreever.encoding.encoding_store import encode_dataset
from retreever.encoding.text_encodings import EmptyEncodings
from retreever.errors import ConfigError, DataError, TrainingError
from retreever.model import ContrastiveLoss
from retreever.model.propagation import LearnedPropagation
from retreever.trained_tree import load_model
from retreever.training import training_loop
from retreever.training.learner import Learner, learning_rate_at_step
from tests.support import tiny
from tests.support.trees import build_loss, build_tree
from tests.support.workers import Doubles, doubles


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny.tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def data(tmp_path_factory, encoder):
    return tiny.encoded(tmp_path_factory.mktemp("store"), tiny.tiny_config(encoder).encoder)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def losses(result):
    return [figures["loss"] for figures in result.history]


def test_a_tree_learns(tmp_path, encoder, data):
    reports = []
    result = training_loop.fit(tiny.tiny_config(encoder, train__steps=60), data, tmp_path, report=reports.append)
    assert [report.step for report in reports] == [10, 20, 30, 40, 50, 60]
    assert [report.is_last for report in reports] == [False] * 5 + [True]
    first, last = reports[0].metrics, reports[-1].metrics
    assert last["loss"] < 0.8 * first["loss"]
    assert result.best["ndcg_at_10"] > 0.4  # a random ranking has 0.02
    margins = [r.metrics["similarity/positive"] - r.metrics["similarity/negative"] for r in reports]
    assert margins[-1] > margins[0]


def test_every_figure_is_a_plain_finite_number(tmp_path, encoder, data):
    reports = []
    training_loop.fit(tiny.tiny_config(encoder, train__steps=10), data, tmp_path, report=reports.append)
    metrics = reports[0].metrics
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert {"loss", "scale", "lr", "ndcg_at_10", "ndcg_at_10/level_04", "recall_at_100/level_04"} <= set(metrics)
    assert all(type(value) is float for value in metrics.values())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss__negatives": 4, "depth__scheduler": "random_square"},
        {"tree__anchor": [1.6, 3.0], "train__lr": 0.01},
        {"tree__split": "mlp", "tree__anchor": 1.0, "tree__start": "clusters"},
        {"tree__split": "mlp", "tree__propagation": "consistent"},
        {"tree__split": "cross_attention", "tree__d_emb": 8, "tree__d_k": 8, "tree__propagation": "learned_per_node"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())) or "defaults",
)
def test_a_resumed_training_repeats_an_uninterrupted_one_to_the_bit(tmp_path, encoder, data, settings):
    config = tiny.tiny_config(encoder, **settings)
    whole = training_loop.fit(config, data, tmp_path / "whole")
    interrupted = training_loop.epochs(config, data, tmp_path / "parts")
    next(interrupted)
    interrupted.close()
    seen = []
    parts = training_loop.fit(config, data, tmp_path / "parts", report=seen.append)
    assert [report.step for report in seen] == [20, 30]
    assert losses(parts) == losses(whole)
    for ours, theirs in zip(
        load_model(parts.model)[0].parameters(), load_model(whole.model)[0].parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_no_steps_make_the_start_alone(tmp_path, encoder, data):
    config = tiny.tiny_config(encoder, train__steps=0, tree__level_norm=True, tree__init_growth=0.5)
    reports = []
    result = training_loop.fit(config, data, tmp_path, report=reports.append)
    assert [(report.step, report.is_last) for report in reports] == [(0, True)] and "loss" not in result.best
    assert result.best["ndcg_at_10"] > 0.4  # sixteen leaves; by random splits .24, by the 32 floats themselves .82
    again = training_loop.fit(config, data, tmp_path)
    assert again.best == result.best


def test_a_tree_needs_no_pair_to_start(tmp_path, encoder, data):
    alone = replace(data, dataset=replace(data.dataset, queries=(), qrels={}), queries=EmptyEncodings(data.passages))
    config = tiny.tiny_config(encoder, train__steps=0)
    result = training_loop.fit(config, alone, tmp_path / "start")
    assert "ndcg_at_10" not in result.best and result.best["effective_nodes/level_04"] > 1
    assert load_model(result.model)[0].tree.depth == 4 and result.best["health/texts"] == len(alone.passages)
    assert not (tmp_path / "start" / training_loop.QUERY_SCORES_FILE).exists()
    with pytest.raises(DataError, match=r"qrels/train\.tsv is missing or empty; .* train\.steps=0 needs none"):
        training_loop.fit(tiny.tiny_config(encoder, train__steps=1), alone, tmp_path / "trained")


@pytest.mark.parametrize("split", ["mlp", "cross_attention"])
@pytest.mark.parametrize("passages", [3, 300])
def test_every_split_function_starts_from_a_corpus_alone(tmp_path, encoder, data, split, passages):
    corpus = data.dataset.corpus[:passages]
    dataset = replace(data.dataset, corpus=corpus, queries=(), qrels={})
    config = tiny.tiny_config(encoder, train__steps=0, tree__split=split, tree__d_emb=8, tree__d_k=8)
    alone = encode_dataset(dataset, config.encoding, data.passages.folder.parent)
    best = training_loop.fit(config, alone, tmp_path).best
    assert best["health/texts"] == passages and best["effective_nodes/level_04"] > 1


def test_dev_pairs_alone_judge_a_start(tmp_path, encoder, data):
    """Without train pairs there are no similarities of pairs to tell, but NDCG@10 is."""
    judged = replace(data, dataset=replace(data.dataset, qrels={"dev": data.dataset.qrels["dev"]}))
    best = training_loop.fit(tiny.tiny_config(encoder, train__steps=0), judged, tmp_path).best
    assert best["ndcg_at_10"] > 0 and "similarity/positive" not in best and "routing_agreement/level_04" in best


def test_a_turned_tree_is_judged_and_exported_but_not_trained(tmp_path, encoder, data):
    settings = {"tree__level_norm": True, "tree__init_growth": 0.5, "train__steps": 20}
    turned = training_loop.fit(tiny.tiny_config(encoder, **settings), data, tmp_path / "turned")
    plain = training_loop.fit(tiny.tiny_config(encoder, tree__turn=False, **settings), data, tmp_path / "plain")
    assert losses(turned) == losses(plain)
    agreement = [result.best["routing_agreement/level_02"] for result in (turned, plain)]
    assert agreement[0] > agreement[1] + 0.1
    assert turned.best["ndcg_at_10"] == pytest.approx(plain.best["ndcg_at_10"], abs=0.05)


def test_a_finished_training_is_not_run_again(tmp_path, encoder, data):
    config = tiny.tiny_config(encoder, train__steps=10)
    first = training_loop.fit(config, data, tmp_path)
    seen = []
    again = training_loop.fit(config, data, tmp_path, report=seen.append)
    assert not seen and losses(again) == losses(first)


def test_another_configuration_in_the_same_folder_is_refused(tmp_path, encoder, data):
    training_loop.fit(tiny.tiny_config(encoder, train__steps=10), data, tmp_path)
    with pytest.raises(ConfigError, match="holds a run of another configuration"):
        training_loop.fit(tiny.tiny_config(encoder, train__steps=20), data, tmp_path)


def test_the_best_model_is_exported_not_the_last(tmp_path, encoder, data, monkeypatch):
    qualities = iter([0.5, 0.9, 0.1])
    run = training_loop.Validation.run

    def ranked(self, tree):
        outcome = run(self, tree)
        outcome.metrics["ndcg_at_10"] = next(qualities)
        return outcome

    monkeypatch.setattr(training_loop.Validation, "run", ranked)
    best = {}

    def remember(report):
        if report.is_best:
            best.update(load_model(report.checkpoint / "best")[0].state_dict())

    result = training_loop.fit(tiny.tiny_config(encoder), data, tmp_path, report=remember)
    assert result.best["ndcg_at_10"] == 0.9 and result.best["step"] == 20
    exported = load_model(result.model)[0].state_dict()
    assert all(torch.equal(exported[name], value) for name, value in best.items())


def test_training_stops_early_where_nothing_improves(tmp_path, encoder, data, monkeypatch):
    run = training_loop.Validation.run

    def flat(self, tree):
        outcome = run(self, tree)
        outcome.metrics["ndcg_at_10"] = 0.5
        return outcome

    monkeypatch.setattr(training_loop.Validation, "run", flat)
    reports = []
    config = tiny.tiny_config(encoder, train__steps=100, train__patience=2)
    training_loop.fit(config, data, tmp_path, report=reports.append)
    assert [report.step for report in reports] == [10, 20, 30] and reports[-1].is_last


def test_a_loss_that_is_not_finite_ends_the_training_and_names_settings(tmp_path, encoder, data, monkeypatch):
    monkeypatch.setattr(ContrastiveLoss, "forward", lambda self, *a, **k: (self.log_scale.sum() * torch.nan, None))
    with pytest.raises(TrainingError, match=r"loss is nan before step 10 .*train\.lr"):
        training_loop.fit(tiny.tiny_config(encoder), data, tmp_path)


@pytest.mark.parametrize("split", ["linear", "cross_attention"])
def test_micro_batches_give_the_gradient_of_the_whole_batch(encoder, data, split):
    settings = {"tree__split": split, "tree__d_emb": 8, "tree__d_k": 8, "tree__attention_dropout": 0.0}
    whole, parts = (
        gradients(tiny.tiny_config(encoder, train__input_dropout=0.0, train__micro_batch=size, **settings), data)
        for size in (None, 5)
    )
    assert all(torch.allclose(whole[name], parts[name], rtol=1e-9, atol=1e-12) for name in whole)
    assert max(gradient.abs().max() for gradient in whole.values()) > 1e-3


def test_micro_batches_draw_the_same_dropout_on_the_way_back(encoder, data):
    config = tiny.tiny_config(encoder, train__input_dropout=0.5, train__micro_batch=5)
    assert all(torch.equal(a, b) for a, b in zip(*(gradients(config, data).values() for _ in range(2)), strict=True))
    with doubles():
        settings = {"input_dropout": 0.5, "autocast": False, "micro_batch": 5, "decay": 0.0, "distill": 0.0}
        learner = Learner(build_tree(32, depth=3), build_loss(), anchor=None, **settings)
        x, keep = torch.randn(20, 32), torch.ones(20, 20, dtype=torch.bool)
        weights = learner.tree.split.readout

        def loss(change):
            with torch.no_grad():
                weights[0, 0] += change
            torch.manual_seed(1)
            return learner((x, None), (x + 0.1, None), (3,), (keep, None))

        loss(0.0).backward()
        step = 1e-6
        slope = (loss(step) - loss(-2 * step)).item() / (2 * step)
    assert weights.grad[0, 0].item() == pytest.approx(slope, rel=1e-4)


def test_accumulated_batches_make_one_step_of_their_mean_gradient(encoder, data):
    config = tiny.tiny_config(encoder, train__input_dropout=0.0)
    single = [gradients(config, data, batch) for batch in range(3)]
    summed = gradients(tiny.tiny_config(encoder, train__input_dropout=0.0, train__accumulate=3), data, 0, 1, 2)
    for name, value in summed.items():
        assert torch.allclose(value, sum(g[name] for g in single) / 3, rtol=1e-9, atol=1e-12)


def gradients(config, data, *batches):
    """Gradients of some batches (by default the first) at the start, in double precision."""
    exact = training_loop.EncodedDataset(data.dataset, Doubles(data.queries.folder), Doubles(data.passages.folder))
    with doubles():
        run = training_loop._TrainingRun(config, exact, Path("nowhere"), "cpu", lambda path: None)
        for batch in batches or (0,):
            run._backward(batch, 0, last=True)
        run.batches.close()
    return {name: parameter.grad for name, parameter in run.learner.named_parameters()}


def test_the_loss_is_the_weighted_mean_of_the_levels(encoder, data):
    config = tiny.tiny_config(encoder)
    torch.manual_seed(0)
    tree, loss = build_tree(data.dim, **config.tree.architecture()), build_loss(levels=4)
    settings = {"input_dropout": 0.0, "autocast": False, "micro_batch": None, "decay": 1.0, "distill": 0.0}
    learner = Learner(tree, loss, anchor=None, **settings).eval()
    sides = data.queries.batch(torch.arange(8).numpy()), data.passages.batch(torch.arange(8).numpy())
    keep = torch.ones(8, 8, dtype=torch.bool), None
    one, four = (learner(*sides, (level,), keep) for level in (1, 4))
    torch.testing.assert_close(learner(*sides, (1, 4), keep), 0.8 * one + 0.2 * four)


def test_levels_share_a_scale_unless_each_has_its_own(tmp_path, encoder, data):
    for per_level, scales in ((False, 1), (True, 4)):
        config = tiny.tiny_config(encoder, loss__scale_per_level=per_level)
        run = training_loop._TrainingRun(config, data, tmp_path / str(scales), "cpu", lambda path: None)
        run.batches.close()
        assert len(run.learner.loss.log_scale) == scales


def test_a_data_set_without_dev_is_refused(tmp_path, encoder, data):
    dataset = tiny.tiny_dataset()
    without_dev = type(dataset)("without_dev", dataset.corpus, dataset.queries, {"train": dataset.qrels["train"]})
    unjudged = training_loop.EncodedDataset(without_dev, data.queries, data.passages)
    with pytest.raises(DataError, match=r"qrels/dev\.tsv is missing or empty"):
        training_loop.fit(tiny.tiny_config(encoder), unjudged, tmp_path)


def test_a_tree_without_an_exact_hierarchy_is_trained_too(tmp_path, encoder, data):
    config = tiny.tiny_config(encoder, tree__propagation="learned", train__steps=10)
    tree, _ = load_model(training_loop.fit(config, data, tmp_path).model)
    assert isinstance(tree.propagation, LearnedPropagation) and not tree.exact_hierarchy


def test_the_learning_rate_warms_up_and_decays_to_zero():
    config = training_loop.Config().with_overrides({"train.steps": 200, "train.lr": 0.1, "train.warmup_fraction": 0.1})
    rates = [learning_rate_at_step(step, config) for step in range(200)]
    assert max(rates) == rates[20] == pytest.approx(0.1)
    assert rates[:20] == sorted(rates[:20]) and rates[20:] == sorted(rates[20:], reverse=True)
    assert 0 < rates[-1] < 0.001
