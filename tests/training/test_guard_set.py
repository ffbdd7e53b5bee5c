"""Guard sets: judged against the frozen encoder at every validation, on the queries and passages that both rank."""

import dataclasses

import numpy as np
import pytest

from retreever.baselines import FrozenEncoder
from retreever.baselines.baseline import Form
from retreever.encoding.encoding_store import EncodedDataset, encode_dataset
from retreever.errors import ConfigError, DataError
from retreever.evaluation.metrics import evaluate_rankings, group_judgements
from retreever.training import training_loop
from retreever.training.guard_set import GuardSet, make_guard_sets
from tests.support import tiny
from tests.support.trees import build_tree


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny.tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module", params=[0.0, 1.0], ids=["last layer", "with lexical features"])
def config(request, encoder):
    return tiny.tiny_config(encoder, encoder__words=request.param, train__guard=["data/other"], train__steps=20)


@pytest.fixture(scope="module")
def sets(tmp_path_factory, config):
    """The data set that is trained on, and another one."""
    store = tmp_path_factory.mktemp("store")
    other = dataclasses.replace(tiny.tiny_dataset(seed=7), name="other")
    return tuple(encode_dataset(dataset, config.encoding, store) for dataset in (tiny.tiny_dataset(), other))


def change_qrels(data, **qrels):
    return EncodedDataset(dataclasses.replace(data.dataset, qrels=qrels), data.queries, data.passages)


def test_every_validation_tells_what_is_left_of_the_frozen_encoder(tmp_path, config, sets):
    reports = []
    training_loop.fit(config, sets[0], tmp_path, guards={"other": sets[1]}, report=reports.append)
    for report in reports:
        ndcg, ratio = report.metrics["guard/other/ndcg_at_10"], report.metrics["guard/other/of_frozen"]
        assert report.metrics["guard_of_frozen"] == ratio
        assert ndcg / ratio == pytest.approx(rank_with_the_encoder(sets[1], "test"), abs=1e-6)
    assert len({report.metrics["guard/other/ndcg_at_10"] for report in reports}) == len(reports) == 2


def rank_with_the_encoder(data, split):
    """NDCG@10 of the baseline `frozen`, which uses the last layer alone."""
    queries, relevant = group_judgements(data.dataset.qrels[split])
    frozen = FrozenEncoder()
    frozen.index(data)
    return evaluate_rankings(frozen.search(queries, 100, Form())[0], relevant)["ndcg_at_10"]


def test_the_smallest_ratio_counts(tmp_path, config, sets):
    two = config.with_overrides({"train.guard": ["data/other", "dev"], "train.steps": 10})
    dev = change_qrels(sets[1], dev=sets[1].dataset.qrels["dev"])
    result = training_loop.fit(two, sets[0], tmp_path, guards={"other": sets[1], "dev": dev})
    ratios = [result.best[f"guard/{name}/of_frozen"] for name in ("other", "dev")]
    assert result.best["guard_of_frozen"] == min(ratios) < max(ratios)


def test_the_test_split_is_judged_or_dev_where_there_is_none(config, sets):
    other = sets[1]
    assert GuardSet("other", other, config).split == "test"
    dev = GuardSet("other", change_qrels(other, dev=other.dataset.qrels["dev"]), config)
    assert dev.split == "dev" and dev.frozen == pytest.approx(rank_with_the_encoder(other, "dev"), abs=1e-6)
    with pytest.raises(DataError, match=r"data set other: qrels/dev\.tsv is missing or empty"):
        GuardSet("other", change_qrels(other, train=other.dataset.qrels["train"]), config)


def test_queries_and_passages_are_limited_as_on_dev(config, sets):
    few = GuardSet("other", sets[1], config.with_overrides({"train.eval_queries": 20, "train.eval_passages": 50}))
    assert len(few.sample.queries) == 20 and len(few.sample.passages) == 50
    tree = build_tree(sets[1].dim, depth=4)
    tree.calibrate(*sets[1].passages.batch(np.arange(100)))
    assert few.frozen > rank_with_the_encoder(sets[1], "test")  # among fewer passages
    assert (
        few.judge(tree)["guard/other/ndcg_at_10"]
        > GuardSet("other", sets[1], config).judge(tree)["guard/other/ndcg_at_10"]
    )


def test_an_encoder_that_finds_nothing_is_refused(config, sets):
    other = sets[1]
    worst = FrozenEncoder()
    worst.index(other)
    last = worst.search(np.array([0]), 300, Form())[0][0, -1]
    lost = change_qrels(other, test=np.array([[0, last, 1]]))
    with pytest.raises(DataError, match="guard set other: the frozen encoder finds nothing in it"):
        GuardSet("other", lost, config)


def test_guards_that_are_not_those_of_the_configuration_are_refused(tmp_path, config, sets):
    with pytest.raises(ConfigError, match=r"train\.guard: names \['other'\], the training was given \[\] as `guards`"):
        training_loop.fit(config, sets[0], tmp_path)
    with pytest.raises(ConfigError, match=r"train\.guard: names \[\], the training was given \['other'\]"):
        make_guard_sets(config.with_overrides({"train.guard": []}), {"other": sets[1]}, sets[0])


def test_the_training_data_under_another_name_is_refused(config, sets):
    with pytest.raises(ConfigError, match="must be a set that is not trained on, other has the training's texts"):
        make_guard_sets(config, {"other": sets[0]}, sets[0])
