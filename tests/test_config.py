"""The configuration tree: strict, frozen, all faults at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retreever import config as configs
from retreever.config import Config, ConfigError


def test_defaults_survive_a_round_trip_through_plain_values():
    config = Config()
    assert configs.build_config(config.model_dump(mode="json")) == config
    assert configs.build_config(config.model_dump(mode="json")).digest == config.digest


def test_each_guard_set_has_a_configuration_that_reads_it():
    config = configs.load_config(None, ["train.guard=[scifact, /data/nq gold, a+b]", "encoder.words=0.5"])
    assert {name: guard.data.name for name, guard in config.guards.items()} == {
        "scifact": "scifact", "nq-gold": "/data/nq gold", "a-b": "a+b"
    }  # fmt: skip
    assert all(guard.encoding == config.encoding and not guard.guards for guard in config.guards.values())
    assert configs.build_config(config.model_dump(mode="json")) == config


def test_guard_sets_decide_the_digest_only_where_there_are_any():
    digests = {Config().with_overrides({"train.guard": guard}).digest for guard in ([], ["a"], ["b"])}
    assert len(digests) == 3 and Config().digest in digests


def test_every_fault_is_reported_at_once(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("tree: {deph: 8, depth: 0}\ntrain: {lr: fast}\ndata: {name: docstrings}\n")
    with pytest.raises(ConfigError) as caught:
        configs.load_config(file, ["loss.scale=-1", "nonsense", "trian.steps=3"])
    text = str(caught.value)
    assert len(caught.value.faults) == 6
    assert "tree.deph: no such setting; did you mean tree.depth?" in text
    assert "tree.depth: input should be greater than or equal to 1, got 0" in text
    assert "train.lr" in text and "'fast'" in text
    assert "loss.scale" in text
    assert "--set nonsense: must be NAME=VALUE" in text
    assert "trian.steps: no such setting; did you mean train.steps?" in text


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["depth.levels=[4, 12]"], "depth.levels: [12]"),
        (["tree.split=cross_attention", "encoder.tokens=false"], "encoder.tokens"),
        (["loss.negatives=64", "train.batch_size=64"], "loss.negatives: 64"),
        (["loss.scale=20000"], "scale (20000.0) must lie within"),
        (
            ["data.name=mine", "train.guard=[mine]"],
            "train.guard: must be a set that is not trained on, data.name has mine",
        ),
        (["data.name=a+b", "train.guard=[c, b]"], "train.guard: must be a set that is not trained on, data.name has b"),
        (["train.guard=[one/set, two/set]"], "train.guard: each set needs a name of its own"),
        (["train.guard=['']"], "train.guard.0"),
        (
            ["tree.split=cross_attention", "tree.d_k=100", "tree.heads=8"],
            "d_k (100) must be a multiple of heads (8)",
        ),
        (["tree=3"], "tree: no such setting"),
    ],
)
def test_rules_across_fields(overrides, fault):
    with pytest.raises(ConfigError) as caught:
        configs.load_config(None, overrides)
    assert fault in str(caught.value)


def test_a_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Config().tree.depth = 3  # type: ignore[misc]


@pytest.mark.parametrize("text", ["5e-4", "0.0005", "5.0e-4", "+5e-4"])
def test_yaml_reads_floats_in_every_notation(text):
    assert configs.parse_yaml(f"lr: {text}") == {"lr": 0.0005}


@given(st.integers(-(10**9), 10**9))
def test_yaml_keeps_integers_integers(number):
    value = configs.parse_yaml(f"n: {number}")["n"]
    assert value == number and isinstance(value, int)


def test_invalid_yaml_names_file_and_line(tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_text("tree: {depth: 8\n")
    with pytest.raises(ConfigError, match=r"broken.yaml: not valid YAML.*line"):
        configs.load_config(file)


def test_a_list_is_no_configuration(tmp_path):
    file = tmp_path / "list.yaml"
    file.write_text("- tree\n")
    with pytest.raises(ConfigError, match="must be a mapping"):
        configs.load_config(file)


def test_a_missing_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        configs.load_config(tmp_path / "absent.yaml")


def test_overrides_win_over_the_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("tree: {depth: 8}\ntrain: {steps: 7}\n")
    config = configs.load_config(file, ["tree.depth=5", "loss.negatives=null"])
    assert (config.tree.depth, config.train.steps, config.loss.negatives) == (5, 7, None)


def test_flat_names_every_setting_once():
    flat = Config().flat()
    assert sorted(flat) == sorted(configs.list_setting_names())
    assert Config().with_overrides(flat) == Config()


def test_different_settings_have_different_digests():
    assert Config().digest != Config().with_overrides({"train.seed": 1}).digest


@pytest.mark.parametrize(
    ("split", "setting", "kept"),
    [("linear", None, False), ("cross_attention", None, True), ("linear", True, True), ("mlp", False, False)],
)
def test_tokens_are_kept_where_the_split_attends_to_them_or_the_setting_says_so(split, setting, kept):
    config = Config().with_overrides({"tree.split": split, "encoder.tokens": setting})
    assert config.encoding.tokens is kept
    assert config.encoding == config.encoder.model_copy(update={"tokens": kept})
