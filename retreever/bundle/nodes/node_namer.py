"""Names of nodes in one sentence, written by a language model from a node's words and typical passages (ours).

The model is any function from a prompt to what is written after it. Where names are kept is not known here.
"""

import re
from collections.abc import Callable, Iterable

from retreever.bundle.nodes.node_names import MAX_NAME_CHARACTERS
from retreever.bundle.retriever import Retreever
from retreever.bundle.tree_view import NodeView, make_node_view
from retreever.system.progress import Track, track_silently

PROMPT_EXAMPLE_CHARACTERS = 200  # of an example's text
MAX_PROMPT_TOKENS, MAX_NAME_TOKENS = 1_024, 32  # that a language model reads and writes for a name
NAMING_PROMPT = "Passages about one topic:\n{examples}\n\nWords they share: {words}\n\nThe topic in one short sentence:"
SENTENCE_END = re.compile(r"(?<=[.!?])\s")


def generate_names(
    retreever: Retreever, nodes: Iterable[int], generate: Callable[[str], str], track: Track = track_silently
) -> dict[int, str]:
    """Names by node; a node for which nothing is written has none.

    Args:
        nodes: nodes to name, below the root.
    """
    wanted = list(nodes)
    prompts = (make_naming_prompt(make_node_view(retreever, node)) for node in wanted)
    written = (_cut_to_name(generate(prompt)) for prompt in track(prompts, "naming nodes", total=len(wanted)))
    return {node: name for node, name in zip(wanted, written, strict=True) if name}


def make_naming_prompt(view: NodeView) -> str:
    """What a language model is asked about a node."""
    texts = (" ".join(f"{example.title} {example.text}".split()) for example in view.examples)
    examples = "\n".join(f"- {text[:PROMPT_EXAMPLE_CHARACTERS]}" for text in texts)
    return NAMING_PROMPT.format(examples=examples, words=", ".join(view.words) or "none")


def _cut_to_name(written: str) -> str:
    """The first sentence of the first line, without quotation marks.

    >>> _cut_to_name('"Reading files. It is about"')
    'Reading files.'
    """
    line = next((line.strip() for line in written.splitlines() if line.strip()), "")
    sentence = SENTENCE_END.split(line.strip("\"'` "))[0]
    return "".join(c for c in sentence if c.isprintable())[:MAX_NAME_CHARACTERS].strip()
