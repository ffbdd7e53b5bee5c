"""A bundle of very many passages to serve, made of a model's own corpus as in `benchmarks.synthetic_corpus`.

    python -m benchmarks.large_bundle MODEL FOLDER [--documents 1000000]
    python -m benchmarks.serve_load FOLDER

Its vectors prune like the real ones; its texts are the real ones, over and over.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from benchmarks.synthetic_corpus import Corpus, fitting_mixture
from benchmarks.timing import say
from retreever.bundle.make_bundle import write_bundle
from retreever.data.dataset import Passage
from retreever.index import TreeIndex
from retreever.system.workspace import Workspace
from retreever.tracking.model_registry import locate
from retreever.trained_tree import layout_of, model_digest


def main(
    model: Annotated[str, typer.Argument(help="a run's name or a model's folder; its split must be linear or mlp")],
    folder: Annotated[Path, typer.Argument(help="where the bundle is written")],
    documents: Annotated[int, typer.Option(help="passages")] = 1_000_000,
) -> None:
    """Write the bundle."""
    workspace = Workspace.default()
    found = locate(model, workspace)
    corpus = Corpus.open(found, workspace, 100)
    t, real, made = fitting_mixture(corpus, corpus.routed(corpus.queries))
    say(f"256 nodes leave {real:.2%} of the real passages, {made:.2%} of the made ones")
    texts = corpus.texts
    passages = [Passage(f"d{i:08d}", texts[i % len(texts)]) for i in range(documents)]
    name = f"made-{documents}"
    data: Any = SimpleNamespace(dataset=SimpleNamespace(corpus=passages, name=name, digest=name))
    layout = layout_of(corpus.tree, corpus.config, model_digest(found))

    def build(target: Path) -> TreeIndex:
        chunks = (corpus.routed(encodings) for encodings in corpus.made(documents, t))
        index = TreeIndex.build(chunks, [passage.id for passage in passages], layout, target)
        say("texts and the words of nodes")
        return index

    stats = write_bundle(found, folder, data, build)
    say(f"{stats['documents']:,} passages, {stats['bytes_per_document']:.0f} bytes each")


if __name__ == "__main__":
    typer.run(main)
