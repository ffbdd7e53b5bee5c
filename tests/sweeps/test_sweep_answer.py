"""The answer to a space's question: which value is best at which level, and which differences are significant."""

import csv

import numpy as np
import pytest

from retreever.config import Config
from retreever.sweeps.sweep_answer import write_answer
from retreever.sweeps.trial_outcome import TrialOutcome, extract_reason

LEVELS = (4, 6)


def shifted(scores, by, noise=0.01, seed=1):
    """Scores whose mean is `by` higher, each by a little more or less."""
    drawn = np.random.default_rng(seed).normal(0, noise, len(scores))
    return scores + by + drawn - drawn.mean()


def trial(folder, scores, *, failed=False, **varied):
    """A trial whose queries score `scores` at level 6 and half of that at level 4."""
    settings = {name.replace("__", "."): value for name, value in varied.items()}
    config = Config().with_overrides({"tree.depth": 6, **settings})
    if failed:
        return TrialOutcome(config.digest, settings, "failed", "run", {}, "TrainingError: loss is nan"), config
    columns = {f"ndcg_at_10/level_{level:02d}": scores * (1.0 if level == 6 else 0.5) for level in LEVELS}
    place = folder / "trials" / config.digest
    place.mkdir(parents=True)
    with open(place / "query_scores.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["query", *columns])
        writer.writerows([f"q{i}", *(values[i] for values in columns.values())] for i in range(len(scores)))
    best = {name: float(values.mean()) for name, values in columns.items()}
    routing = {"effective_nodes/level_06": 20.0, "health/top_leaf_probability": 0.3, "health/empty_leaves": 1.0}
    routing |= {"routing_agreement/level_06": 0.41}
    best |= {"ndcg_at_10": float(scores.mean()), "recall_at_100": 0.7, **routing}
    return TrialOutcome(config.digest, settings, "finished", "run", best), config


def answer_of(folder, about, trials):
    write_answer(folder, about, [o for o, _ in trials], {o.key: config for o, config in trials})
    return (folder / "answer.md").read_text()


@pytest.fixture
def scores():
    return np.random.default_rng(0).uniform(0.2, 0.8, 200)


def test_the_order_at_every_level_and_its_significance(tmp_path, scores):
    text = answer_of(
        tmp_path,
        "depth.scheduler",
        [
            trial(tmp_path, scores, depth__scheduler="all_levels"),
            trial(tmp_path, shifted(scores, -0.001, noise=0.1), depth__scheduler="constant"),
            trial(tmp_path, shifted(scores, -0.1, seed=2), depth__scheduler="random_square"),
        ],
    )
    (line,) = [line for line in text.splitlines() if line.startswith("- 64 dimensions")]
    assert line.index("all_levels") < line.index("constant") < line.index("random_square")
    same, behind = line.split("constant")[1].split("random_square")
    assert "not significant" in same and "not significant" not in behind
    assert "(0.100 behind [0.09" in behind
    assert "- 16 dimensions" in text and "over 200 queries and 1 seed:" in text
    assert "| all_levels | 0." in text and (tmp_path / "answer.png").is_file()


def test_each_value_is_judged_with_its_best_settings(tmp_path, scores):
    text = answer_of(
        tmp_path,
        "tree.split",
        [
            trial(tmp_path, shifted(scores, -0.2), tree__split="mlp", train__lr=0.1),
            trial(tmp_path, shifted(scores, 0.1), tree__split="mlp", train__lr=0.01),
            trial(tmp_path, scores, tree__split="linear", train__lr=0.1),
        ],
    )
    assert "each with the other settings at their best: mlp with lr=0.01; linear with lr=0.1" in text


def test_seeds_are_averaged_and_their_spread_is_shown(tmp_path, scores):
    text = answer_of(
        tmp_path,
        "tree.split",
        [
            trial(tmp_path, shifted(scores, shift, seed=len(split) + seed), tree__split=split, train__seed=seed)
            for split, middle in (("mlp", 0.1), ("linear", 0.0))
            for seed, shift in ((0, middle - 0.02), (1, middle + 0.02))
        ],
    )
    mean = scores.mean()
    assert "and 2 seeds:" in text and f"mlp {mean + 0.1:.3f}" in text
    assert f"| linear | {mean / 2:.3f} ± 0.010 | {mean:.3f} ± 0.020 |" in text


def test_the_table_tells_of_routing_and_of_guard_sets_where_there_are_any(tmp_path, scores):
    (plain, config), (guarded, other) = (trial(tmp_path, scores, tree__split=split) for split in ("mlp", "linear"))
    text = answer_of(tmp_path, "tree.split", [(plain, config)])
    assert "| R@100 | effective leaves | top leaf | empty leaves | agreement |\n" in text
    assert "| 0.700 | 20 | 0.3 | 1 | 0.41 |" in text
    guarded.best["guard_of_frozen"] = 0.975
    text = answer_of(tmp_path, "tree.split", [(plain, config), (guarded, other)])
    assert "| agreement | of frozen |" in text
    assert "| 0.41 | 0.975 |" in text and "| 0.41 |  |" in text


def test_what_failed_is_named(tmp_path, scores):
    fine, broken = (
        trial(tmp_path, scores, tree__split="mlp"),
        trial(tmp_path, scores, failed=True, tree__split="linear"),
    )
    assert "Failed: linear: TrainingError: loss is nan" in answer_of(tmp_path, "tree.split", [fine, broken])
    assert "no trial finished" in answer_of(tmp_path, "tree.split", [broken])


def test_a_negative_count_of_none_is_called_all(tmp_path, scores):
    trials = [trial(tmp_path, shifted(scores, n / 1000, seed=n), loss__negatives=n or None) for n in (0, 4, 64)]
    assert "all 0." in answer_of(tmp_path, "loss.negatives", trials)


@pytest.mark.parametrize(
    ("traceback", "says"),
    [
        ("Traceback\n  File x\nValueError: too deep\n", "ValueError: too deep"),
        ("a\nray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.\nb", "memory"),
        ("ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.\n\tpid: 7", "killed"),
        ("", "unknown error"),
    ],
)
def test_the_reason_of_a_failure_is_one_line(traceback, says):
    assert says in extract_reason(traceback) and "\n" not in extract_reason(traceback)
