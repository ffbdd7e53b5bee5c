"""Many workers train the same model as one: same global batch, same seed, same parameters."""

import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from retreever.data.dataset import RetrievalDataset
from retreever.encoding.encoding_store import encode_dataset
from retreever.errors import TrainingError
from retreever.model.router import PROPAGATIONS, SPLIT_FUNCTIONS
from retreever.training import checkpoint, distributed, training_batches, training_loop
from tests.support import tiny
from tests.support.workers import train_alone, train_together

STEPS = 20
EXACT = 1e-6
JUDGED = ("guard", "ndcg_at_10", "recall", "health/", "effective_nodes", "routing_agreement")
PLAIN = {
    "train__steps": STEPS,
    "train__eval_every": STEPS,
    "train__eval_queries": 20,
    "train__input_dropout": 0.0,
    "tree__mlp_dropout": 0.0,
    "tree__attention_dropout": 0.0,
    "tree__propagation_dropout": 0.0,
    "tree__d_emb": 8,
    "tree__d_k": 8,
    "depth__levels": [2, 4],
}


def config(encoder, **settings):
    return tiny.tiny_config(encoder, **{**PLAIN, **settings})


def cases(encoder):
    """Every split function with every propagation, and all other settings that touch rows of other workers."""
    grid = {
        f"{split}-{propagation}": config(encoder, tree__split=split, tree__propagation=propagation, loss__negatives=7)
        for split, propagation in itertools.product(SPLIT_FUNCTIONS, PROPAGATIONS)
    }
    return grid | {
        "all negatives": config(encoder),
        "a batch of unequal shares": config(encoder, train__batch_size=33, loss__negatives=7),
        "micro-batches": config(encoder, tree__split="cross_attention", train__micro_batch=5),
        "accumulated": config(encoder, train__accumulate=3),
        "distilled from finer levels": config(encoder, depth__distill=0.8, loss__negatives=7),
        "distilled, all negatives": config(encoder, depth__distill=0.8),
        "ntvd": config(encoder, loss__similarity="ntvd", loss__scale=20.0),
        "anchored, started at clusters and turned": config(
            encoder, tree__anchor=[1.0, 2.0], tree__start="clusters", tree__level_norm=True, tree__init_growth=0.5
        ),
        "stochastic depth": config(encoder, depth__scheduler="random_square", depth__levels=None),
    }


def shared_dataset():
    """The tiny data set with a second query for every third passage and a second passage for every fourth query."""
    dataset = tiny.tiny_dataset()
    train = dataset.qrels["train"]
    more = np.concatenate([train[::3] + np.array([1, 0, 0]), train[::4] + np.array([0, 2, 0])])
    rows = np.unique(np.concatenate([train, more[(more[:, :2] < len(train)).all(1)]]), axis=0)
    return RetrievalDataset(dataset.name, dataset.corpus, dataset.queries, {**dataset.qrels, "train": rows})


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    encoder = tiny.tiny_bert(folder / "bert")
    data = encode_dataset(shared_dataset(), tiny.tiny_config(encoder, encoder__tokens=True).encoder, folder / "store")
    return folder, encoder, data


@pytest.fixture(scope="module")
def trained(setting):
    """Folders of every case, trained by two workers."""
    folder, encoder, data = setting
    together = folder / "two"
    together.mkdir()
    train_together(2, cases(encoder), data, together)
    return together


def weights(folder):
    return load_file(folder / "checkpoint" / f"step-{STEPS:08d}" / "model.safetensors")


def furthest(ours, theirs):
    """The largest difference of two models' parameters."""
    assert ours.keys() == theirs.keys()
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


NAMES = list(cases("an encoder"))


@pytest.mark.parametrize("name", NAMES)
def test_two_workers_train_the_parameters_that_one_trains(setting, trained, tmp_path, name):
    _, encoder, data = setting
    train_alone(cases(encoder)[name], data, tmp_path)
    assert furthest(weights(tmp_path), weights(trained / name)) < EXACT


def test_the_masks_exclude_pairs_and_matter(setting, trained, tmp_path, monkeypatch):
    _, encoder, data = setting
    monkeypatch.setattr(training_batches, "negatives_mask", lambda q, *_: torch.ones(len(q), len(q), dtype=torch.bool))
    train_alone(cases(encoder)["all negatives"], data, tmp_path)
    assert furthest(weights(tmp_path), weights(trained / "all negatives")) > 1e-3


def test_more_workers_than_pairs_are_refused(setting, tmp_path, monkeypatch):
    _, encoder, data = setting
    monkeypatch.setattr(distributed, "world_size", lambda: 64)
    with pytest.raises(TrainingError, match=r"train\.batch_size: 64 workers need a batch of 64 pairs or more, it has"):
        training_loop.fit(config(encoder), data, tmp_path)


def test_two_workers_judge_as_one_does(setting, tmp_path):
    """Dev, guard set and health, where neither queries nor passages divide evenly."""
    folder, encoder, data = setting
    limits = {"train__eval_queries": 19, "train__eval_passages": 101, "train__guard": ["other"]}
    job = config(encoder, **limits, train__steps=2, train__eval_every=1)
    guard = encode_dataset(
        tiny.tiny_dataset(seed=7), job.encoding.model_copy(update={"tokens": True}), folder / "store"
    )
    train_together(2, {"guarded": job}, data, tmp_path, guard)
    train_alone(job, data, tmp_path / "alone", guard)
    together, alone = (
        checkpoint.read_training_state(tmp_path / name / "checkpoint").history for name in ("guarded", "alone")
    )
    judged = [name for name in alone[0] if name.startswith(JUDGED)]
    assert {"guard_of_frozen", "ndcg_at_10", "effective_nodes/level_04", "health/even_splits/level_01"} <= set(judged)
    for ours, theirs in zip(together, alone, strict=True):
        assert {name: ours[name] for name in judged} == pytest.approx(
            {name: theirs[name] for name in judged}, abs=EXACT
        )
