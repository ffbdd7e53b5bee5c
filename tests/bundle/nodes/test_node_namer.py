"""Names that a language model writes: what it is asked, and what is kept of the answer."""

import pytest

from retreever.bundle.nodes.node_namer import generate_names, make_naming_prompt
from retreever.bundle.retriever import Retreever
from retreever.bundle.tree_view import make_node_view
from retreever.encoding.text_generator import TextGenerator
from tests.support.architectures import save_language_model


@pytest.fixture(scope="module")
def retreever(served):
    return Retreever.load(served[1], encoder=False)


def test_the_prompt_holds_words_and_examples(retreever):
    node = next(node for node in range(1, 31) if retreever.explanation.words[node])
    view = make_node_view(retreever, node)
    prompt = make_naming_prompt(view)
    assert ", ".join(view.words) in prompt and prompt.endswith(":")
    assert all(f"- {example.text[:150]}" in prompt for example in view.examples)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ('"Reading files. It is about"', "Reading files."),
        ("\n  'Plots and axes'\nmore", "Plots and axes"),
        ("", None),
        (" \n ", None),
        ("x" * 999, "x" * 200),
    ],
)
def test_the_first_sentence_is_kept(retreever, written, name):
    assert generate_names(retreever, [3, 4], lambda prompt: written) == ({} if name is None else {3: name, 4: name})


def test_any_local_model_names_nodes_the_same_way_each_time(retreever, tmp_path):
    generate = TextGenerator(str(save_language_model(tmp_path / "gpt")), 1_024, 32)
    names = generate_names(retreever, range(1, 7), generate)
    assert names and names == generate_names(retreever, range(1, 7), generate)
    assert all(name == name.strip() and "\n" not in name for name in names.values())
