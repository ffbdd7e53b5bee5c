"""Writes a large synthetic bundle to serve, from a model's corpus by `benchmarks.synthetic_corpus`.

    python -m benchmarks.large_bundle MODEL FOLDER [--documents 1000000]
    python -m benchmarks.serve_load FOLDER

Its vectors prune like the real ones; its texts repeat the real ones.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from benchmarks.synthetic_corpus import SyntheticCorpus, fit_mixture_weight
from benchmarks.timing import log_step
from retreever.bundle.make_bundle import complete_bundle
from retreever.data.dataset import Passage
from retreever.index import TreeIndex
from retreever.system.files import write_atomically
from retreever.system.workspace import Workspace
from retreever.tracking.model_registry import locate_model
from retreever.trained_tree import load_trained_tree


def main(
    model: Annotated[str, typer.Argument(help="a run's name or a model's folder; its split must be linear or mlp")],
    folder: Annotated[Path, typer.Argument(help="folder of the bundle to write")],
    documents: Annotated[int, typer.Option(help="passages of the bundle")] = 1_000_000,
) -> None:
    """Write the bundle."""
    workspace = Workspace.default()
    found = locate_model(model, workspace)
    corpus = SyntheticCorpus.open(found, workspace, 100)
    t, real, synthetic = fit_mixture_weight(corpus, corpus.route(corpus.queries))
    log_step(f"surviving the first bound: {real:.2%} of the real passages, {synthetic:.2%} of the synthetic ones")
    texts = corpus.texts
    passages = [Passage(f"d{i:08d}", texts[i % len(texts)]) for i in range(documents)]
    name = f"synthetic-{documents}"
    dataset: Any = SimpleNamespace(corpus=passages, name=name, digest=name)
    trained = load_trained_tree(found)
    with write_atomically(folder) as aside:
        chunks = (corpus.route(encodings) for encodings in corpus.generate(documents, t))
        index = TreeIndex.build(chunks, [passage.id for passage in passages], trained.layout, aside / "index")
        log_step("texts and the words of nodes")
        complete_bundle(trained, dataset, index, aside)
    stats = index.stats()
    log_step(f"{stats['documents']:,} passages, {stats['bytes_per_document']:.0f} bytes each")


if __name__ == "__main__":
    typer.run(main)
