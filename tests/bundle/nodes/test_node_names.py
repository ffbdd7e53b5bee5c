"""Names of nodes: given, taken away, kept apart from the explanation, and a person's before a language model's."""

import json
import shutil

import pytest

from retreever.bundle.make_bundle import make_bundle
from retreever.bundle.nodes.node_names import (
    MAX_NAME_CHARACTERS,
    NAMES_FILE,
    NodeName,
    carry_names,
    keep_generated_names,
    read_names,
    rename_nodes,
)
from retreever.bundle.retriever import EXPLANATION_FOLDER, Retreever
from retreever.errors import BundleError
from retreever.model.tree import Tree
from retreever.system.files import verify_sealed_folder

TREE, MODEL = Tree(3), "a" * 64


def test_names_are_given_and_taken_away(tmp_path):
    assert read_names(tmp_path, MODEL) == {}
    rename_nodes(tmp_path, MODEL, TREE, {3: " Reading files ", 4: "Größe 木"})
    assert read_names(tmp_path, MODEL) == {3: NodeName("Reading files", False), 4: NodeName("Größe 木", False)}
    rename_nodes(tmp_path, MODEL, TREE, {3: "", 14: "last", 5: ""})
    assert read_names(tmp_path, MODEL) == {4: NodeName("Größe 木", False), 14: NodeName("last", False)}
    assert [path.name for path in tmp_path.iterdir()] == [NAMES_FILE]


@pytest.mark.parametrize("node", [-1, 15])
def test_a_node_that_is_not_there_is_refused_and_nothing_is_changed(tmp_path, node):
    with pytest.raises(ValueError, match=rf"node {node}: must be a whole number in \[0, 14\]"):
        rename_nodes(tmp_path, MODEL, TREE, {1: "fine", node: "x"})
    assert read_names(tmp_path, MODEL) == {}


@pytest.mark.parametrize("name", ["two\nlines", "x" * (MAX_NAME_CHARACTERS + 1), "bell\a"])
def test_a_name_is_one_short_line(tmp_path, name):
    with pytest.raises(ValueError, match=r"name of node 1: must be one line of at most 200 characters, got"):
        rename_nodes(tmp_path, MODEL, TREE, {1: name})


def test_a_generated_name_never_takes_the_place_of_a_persons(tmp_path):
    rename_nodes(tmp_path, MODEL, TREE, {1: "mine"})
    keep_generated_names(tmp_path, MODEL, {1: "written", 2: "written"})
    assert read_names(tmp_path, MODEL) == {1: NodeName("mine", False), 2: NodeName("written", True)}
    keep_generated_names(tmp_path, MODEL, {2: "anew"})
    rename_nodes(tmp_path, MODEL, TREE, {1: ""})
    assert read_names(tmp_path, MODEL) == {2: NodeName("anew", True)}
    rename_nodes(tmp_path, MODEL, TREE, {2: "mine after all"})
    assert read_names(tmp_path, MODEL) == {2: NodeName("mine after all", False)}


def test_names_of_another_tree_do_not_count(tmp_path):
    rename_nodes(tmp_path, "b" * 64, TREE, {1: "theirs"})
    assert read_names(tmp_path, MODEL) == {}
    (tmp_path / "new").mkdir()
    carry_names(tmp_path, tmp_path / "new", MODEL)
    assert not (tmp_path / "new" / NAMES_FILE).exists()
    carry_names(tmp_path, tmp_path / "new", "b" * 64)
    assert read_names(tmp_path / "new", "b" * 64) == {1: NodeName("theirs", False)}


@pytest.mark.parametrize("stored", ["[]", "{}", '{"format": 1, "model": "M", "names": {"x": {}}}', "no json"])
def test_a_damaged_file_is_named(tmp_path, stored):
    (tmp_path / NAMES_FILE).write_text(stored.replace("M", MODEL))
    with pytest.raises(BundleError, match=NAMES_FILE):
        read_names(tmp_path, MODEL)


def test_names_survive_a_new_explanation_and_a_bundle_made_anew(served, tmp_path):
    folder = shutil.copytree(served[1], tmp_path / "live")
    retreever = Retreever.load(folder)
    rename_nodes(folder, retreever.digest, retreever.tree, {21: "mine"})
    (folder / EXPLANATION_FOLDER / "words.json").write_text("[]")  # damaged, so that nodes are explained anew
    assert Retreever.load(folder).explanation.words[3] == Retreever.load(served[1]).explanation.words[3]
    assert read_names(folder, retreever.digest) == {21: NodeName("mine", False)}
    make_bundle(served[1].parent / "model", folder, served[0])
    assert read_names(folder, retreever.digest) == {21: NodeName("mine", False)}
    rename_nodes(folder, retreever.digest, retreever.tree, {21: "changed"})
    verify_sealed_folder(folder)  # a name may change without breaking the seal
    assert json.loads((folder / NAMES_FILE).read_text())["names"]["21"] == {"name": "changed", "generated": False}
