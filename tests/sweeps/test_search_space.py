"""Search spaces: grids that mirror the configuration, every trial valid before the first one starts."""

import re
from pathlib import Path

import pytest

from retreever.config import Config
from retreever.errors import ConfigError
from retreever.sweeps import search_space as spaces

SHIPPED = sorted(Path("search_spaces").glob("*.yaml"))


def written(folder, text):
    file = folder / "space.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_space_is_valid_and_names_its_question_and_cost(path):
    space = spaces.load_space(path, {"train.guard": ["scifact"]} if path.stem in ("anchor", "hybrid") else None)
    trials = spaces.list_trials(space) if space.search != "optuna" else spaces.list_corner_trials(space)
    header = path.read_text().split("\nname:")[0]
    assert "# Question:" in header and "# Cost:" in header
    assert re.search(rf"# Trials: .*\b{spaces.count_trials(space)}\b", header), spaces.count_trials(space)
    assert len({trial.key for trial in trials}) == len(trials)
    assert spaces.final_config(space, trials[0].config).train.steps >= trials[0].config.train.steps


def test_the_demo_varies_what_the_paper_ablates():
    trials = spaces.list_trials(spaces.load_space(Path("search_spaces/demo.yaml")))
    assert len(trials) >= 8
    assert {"tree.depth", "tree.split", "depth.scheduler", "loss.negatives"} <= set(trials[0].varied)


def test_a_grid_is_a_product_in_the_order_of_the_file(tmp_path):
    space = spaces.load_space(
        written(tmp_path, "name: t\nconfig: {tree: {depth: {grid: [3, 4]}}, train: {seed: {grid: [0, 1]}, steps: 7}}")
    )
    trials = spaces.list_trials(space)
    assert [(t.varied["tree.depth"], t.varied["train.seed"]) for t in trials] == [(3, 0), (3, 1), (4, 0), (4, 1)]
    assert all(t.config.train.steps == 7 for t in trials)
    assert trials[1].label == "depth=3 seed=1"


def test_faults_of_all_trials_are_reported_once_each(tmp_path):
    file = written(tmp_path, "name: t\nconfig: {tree: {depth: {grid: [3, 0]}, split: {grid: [linear, tree]}, deep: 1}}")
    with pytest.raises(ConfigError) as caught:
        spaces.load_space(file)
    text = str(caught.value)
    assert "tree.deep: no such setting; did you mean tree.depth?" in text
    assert "tree.depth" in text and "got 0" in text
    assert "tree.split" in text and "got 'tree'" in text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("name: t\nconfig: {tree: {depth: {grid: []}}}", "config.tree.depth: grid: must be a list of values, got []"),
        ("name: t\nconfig: {tree: {depth: {gird: [1]}}}", "config.tree.depth: must be a value or {grid: [values]}"),
        ("name: t\nconfig: {tree: 3}", "config.tree: must be a mapping"),
        ("name: T t\n", "name: string should match pattern"),
        ("name: t\nschedular: asha\n", "schedular"),
        ("name: t\nfinal: {train: {step: 3}}", "train.step: no such setting; did you mean train.steps?"),
        (
            "name: t\nconfig: {train: {lr: {uniform: [1, 1]}}}",
            "uniform: must be two numbers [low, high]",
        ),
        ("name: t\nconfig: {train: {lr: {loguniform: [0, 1]}}}", "loguniform: must start above 0"),
        ("name: t\nconfig: {tree: {depth: {int: [1, 2.5]}}}", "int: must be two whole numbers"),
        ("name: t\nconfig: {train: {lr: {uniform: [0.1, 1]}}}", "config.train.lr: uniform: search: grid takes {grid"),
        ("name: t\nsearch: random", "budget.trials: search: random needs it"),
        ("name: t\nbudget: {trials: 3}", "budget.trials: a grid has as many as it has"),
        ("name: t\nobjectives: [ndcg_at_10, guard_of_frozen]", "t: objectives: guard_of_frozen needs a guard set"),
        (
            "name: t\nobjectives: [routing_agreement/level_06]\nconfig: {tree: {depth: {grid: [4, 8]}}}",
            "t: objectives: routing_agreement/level_06 needs a tree of that depth, got tree.depth=4",
        ),
        ("name: t\nobjectives: [routing_agreement]", "objectives: ['routing_agreement'] must be among ndcg_at_10"),
        ("name: t\nobjectives: [recall_at_10/level_04]", "must be among ndcg_at_10"),
        ("name: t\nobjectives: [beauty]", "objectives: ['beauty'] must be among ndcg_at_10"),
        ("name: t\nseeds: 0", "seeds: must be one or more"),
        ("name: t\nseeds: 2\nconfig: {train: {seed: {grid: [0, 1]}}}", "seeds: config.train.seed varies already"),
        ("name: t\nabout: tree.split", "about: tree.split must be a setting that varies"),
        (
            "name: t\nsearch: optuna\nbudget: {trials: 3}\nconfig: {tree: {depth: {grid: [3, 4]}}}",
            "config.tree.depth: grid: search: optuna takes {choice: [values]}, or a range",
        ),
        (
            "name: t\nconfig: {tree: {hidden: {grid: [8], when: {tree.spilt: mlp}}}}",
            "config.tree.hidden: when: tree.spilt: no such setting; did you mean tree.split?",
        ),
        (
            "name: t\nconfig: {tree: {hidden: {grid: [8], when: {tree.split: mlp}}, split: {grid: [mlp, linear]}}}",
            "tree.split varies as well and must stand before tree.hidden",
        ),
    ],
)
def test_broken_spaces_name_the_fault(tmp_path, text, fault):
    with pytest.raises(ConfigError) as caught:
        spaces.load_space(written(tmp_path, text))
    assert fault in str(caught.value)


def test_a_space_whose_objective_needs_a_guard_set_says_how_to_name_one():
    with pytest.raises(ConfigError) as caught:
        spaces.load_space(Path("search_spaces/anchor.yaml"))
    (fault,) = caught.value.faults
    assert fault.endswith("add --set train.guard=[NAME]")
    space = spaces.load_space(Path("search_spaces/anchor.yaml"), {"train.guard": ["scifact"]})
    assert {trial.config.train.guard for trial in spaces.list_trials(space)} == {("scifact",)}
    with pytest.raises(ConfigError, match=r"train\.guard: must be a set that is not trained on, data\.name has doc"):
        spaces.load_space(Path("search_spaces/anchor.yaml"), {"train.guard": ["docstrings"]})


def test_overrides_fix_a_setting_for_all_trials(tmp_path):
    file = written(tmp_path, "name: t\nconfig: {tree: {depth: {grid: [3, 4]}}}")
    assert len(spaces.list_trials(spaces.load_space(file, {"tree.depth": 5}))) == 1
    with pytest.raises(ConfigError, match=r"tree\.deph: no such setting"):
        spaces.load_space(file, {"tree.deph": 5})


def test_the_digest_ignores_the_final_training_only(tmp_path):
    one = spaces.load_space(written(tmp_path, "name: t\nfinal: {train: {steps: 9}}"))
    two = spaces.load_space(written(tmp_path, "name: t\nfinal: {train: {steps: 10}}"))
    three = spaces.load_space(written(tmp_path, "name: t\nconfig: {train: {steps: 10}}"))
    assert spaces.space_digest(one) == spaces.space_digest(two) != spaces.space_digest(three)


def test_a_condition_varies_a_setting_only_where_it_matters(tmp_path):
    text = "name: t\nconfig: {tree: {split: {grid: [linear, mlp]}, hidden: {grid: [8, 16], when: {tree.split: mlp}}}}"
    trials = spaces.list_trials(spaces.load_space(written(tmp_path, text)))
    assert [trial.label for trial in trials] == ["split=linear", "split=mlp hidden=8", "split=mlp hidden=16"]
    assert trials[0].config.tree.hidden == Config().tree.hidden


def test_every_point_is_run_with_every_seed(tmp_path):
    trials = spaces.list_trials(
        spaces.load_space(written(tmp_path, "name: t\nseeds: 2\nconfig: {tree: {depth: {grid: [3, 4]}}}"))
    )
    assert [(t.config.tree.depth, t.config.train.seed) for t in trials] == [(3, 0), (3, 1), (4, 0), (4, 1)]
    chosen = spaces.list_trials(spaces.load_space(written(tmp_path, "name: t\nseeds: [7, 9]")))
    assert [t.config.train.seed for t in chosen] == [7, 9]


RANDOM = """
name: t
search: random
budget: {trials: TRIALS}
config:
  tree: {depth: {int: [2, 5]}, split: {choice: [linear, mlp]}, hidden: {int: [4, 9], when: {tree.split: mlp}}}
  loss: {similarity: {grid: [ntvd, bhattacharyya]}}
  train: {lr: {loguniform: [1e-3, 1e-1]}, input_dropout: {uniform: [0, 0.5]}}
"""


def test_random_points_are_in_their_ranges_and_a_larger_budget_keeps_them(tmp_path):
    few = spaces.list_trials(spaces.load_space(written(tmp_path, RANDOM.replace("TRIALS", "6"))))
    space = spaces.load_space(written(tmp_path, RANDOM.replace("TRIALS", "30")))
    many = spaces.list_trials(space)
    assert len(few) == 12 and len(many) == 60  # each point with both similarities
    assert [trial.key for trial in few] == [trial.key for trial in many[:12]]
    assert {trial.config.tree.depth for trial in many} == {2, 3, 4, 5}
    assert all(1e-3 <= t.config.train.lr <= 1e-1 and 0 <= t.config.train.input_dropout <= 0.5 for t in many)
    assert all(("tree.hidden" in t.varied) == (t.config.tree.split == "mlp") for t in many)
    assert sum(t.config.train.lr < 1e-2 for t in many) > 15  # half of it, on a logarithmic scale


@pytest.mark.parametrize("search", ["random", "optuna"])
@pytest.mark.parametrize(
    ("domain", "fault"),
    [
        ("tree: {depth: {int: [1, 17]}}", "tree.depth"),
        ("tree: {depth: {int: [0, 9]}}", "tree.depth"),
        ("train: {input_dropout: {uniform: [0.1, 1.0]}}", "train.input_dropout"),
        ("loss: {negatives: {int: [4, 64]}}, train: {batch_size: {int: [64, 128]}}", "loss.negatives: 64 in-batch"),
    ],
)
def test_an_end_without_a_valid_configuration_is_a_fault_before_the_start(tmp_path, search, domain, fault):
    text = f"name: t\nsearch: {search}\nbudget: {{trials: 1}}\nseed: 1\nconfig: {{{domain}}}"
    with pytest.raises(ConfigError, match=fault):
        spaces.load_space(written(tmp_path, text))


def test_a_budget_may_be_raised_without_a_new_sweep(tmp_path):
    few, many = (spaces.load_space(written(tmp_path, RANDOM.replace("TRIALS", n))) for n in ("6", "30"))
    assert spaces.space_digest(few) == spaces.space_digest(many)
