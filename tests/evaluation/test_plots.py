import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from retreever.comparison import comparison_plots
from retreever.comparison.verdict import METRIC_COLUMNS, Conditions, Verdict, VerdictRow
from retreever.evaluation import training_plots, trial_plots


def verdict() -> Verdict:
    figures = dict.fromkeys(METRIC_COLUMNS, 0.5)
    rows = [VerdictRow("tree", 2**d, 4 * 2**d, figures) for d in (4, 6, 8)] + [VerdictRow("bm25", None, 600.0, figures)]
    return Verdict("demo", Conditions(2000, 100, "minilm", 600, 1024, 0), rows)


HISTORY = [
    {"step": 100.0, "loss": 2.0, "ndcg_at_10/level_04": 0.2, "ndcg_at_10/level_06": 0.3},
    {"step": 200.0, "loss": 1.0, "ndcg_at_10/level_04": 0.3, "ndcg_at_10/level_06": 0.4},
]
TRIALS = [{"dimensions": 64, "ndcg_at_10": 0.4, "split": "linear", "scheduler": "constant"}]
DRAW = {
    "verdict": lambda path: comparison_plots.plot_verdict(verdict(), path),
    "training": lambda path: training_plots.plot_training(HISTORY, path),
    "similarities": lambda path: training_plots.plot_similarities([1, 2], [0.5, 0.7], [0.5, 0.3], path),
    "trials": lambda path: trial_plots.plot_trials(TRIALS, path),
    "parallel": lambda path: trial_plots.plot_parallel(
        ["tree.split", "loss.negatives", "train.lr"],
        [["linear", None, 1e-3], ["mlp", 4, 1e-1]],
        [0.3, 0.4],
        path,
    ),
    "importances": lambda path: trial_plots.plot_importances({"tree.depth": 0.9, "train.lr": 0.1}, path),
    "pareto": lambda path: trial_plots.plot_pareto(
        [(0.3, 64), (0.4, 256), (0.2, 256)], [0, 1], ["ndcg_at_10", "bytes_per_document"], ["a", "b", "c" * 99], path
    ),
    "comparison": lambda path: trial_plots.plot_comparison(
        [trial_plots.LevelCurve(name, [16, 64], [0.1, 0.2], [0.0, 0.0]) for name in ("a", "b")],
        np.array([0.4, 0.0, -0.2]),
        path,
    ),
    "answer": lambda path: trial_plots.plot_answer(
        [trial_plots.LevelCurve(name, [16, 64], [0.1, 0.2], [0.01, 0.0]) for name in ("a", "b")], "tree.split", path
    ),
    "routing": lambda path: training_plots.plot_routing({d: np.full((3, 2**d), 2.0**-d) for d in (1, 2, 3)}, path),
}


@pytest.mark.parametrize("name", DRAW)
def test_a_png_is_written_whole_and_alone(name, tmp_path):
    DRAW[name](tmp_path / f"{name}.png")
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.png"]
    data = (tmp_path / f"{name}.png").read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 5_000


def test_threads_draw_at_the_same_time(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(DRAW["similarities"], [tmp_path / f"{i}.png" for i in range(4)]))
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_left_shares_of_even_and_decided_splits():
    bins = np.linspace(0, 1, 11)
    even = training_plots._left_shares(np.full((4, 8), 1 / 8), bins)
    assert even[5] == pytest.approx(1) and even.sum() == pytest.approx(1)
    decided = training_plots._left_shares(np.array([[1.0, 0, 0, 0], [0, 0, 0, 1.0]]), bins)
    assert decided[0] == decided[-1] == pytest.approx(0.5)


def test_the_module_loads_no_matplotlib():
    code = "import sys, retreever.evaluation.training_plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
