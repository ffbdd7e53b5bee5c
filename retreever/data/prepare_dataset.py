"""From the name of a source to a data set: what `retreever data SOURCE` reads."""

import dataclasses
from pathlib import Path

from retreever.data import beir, docstrings
from retreever.data.bad_lines import OnBad
from retreever.data.dataset import RetrievalDataset
from retreever.data.hub import from_hub
from retreever.data.paper_datasets import RECIPES
from retreever.errors import DataError
from retreever.system.files import write_aside
from retreever.system.progress import Track, silent

SOURCES = ("docstrings", "beir", "hub", *RECIPES)


def prepare(
    source: str,
    path: str | None = None,
    *,
    name: str | None = None,
    query: str | None = None,
    passage: str | None = None,
    on_bad: OnBad = "refuse",
    cache: Path,
    track: Track = silent,
) -> RetrievalDataset:
    """Read a data set from `source`.

    Args:
        source: docstrings, beir (a folder or URI), hub (any data set, by its columns) or one of the paper's recipes.
        path: beir: the folder or its URI; hub: an id or local files; a recipe: local files in the place of its id.
        name: of the data set; the source's own where it is None.
        query, passage: hub: names of the columns.
        cache: folder for what is fetched.

    Raises:
        DataError: an unknown source, a missing argument, or bad data.
        StorageError: a URI that cannot be read.
    """
    if source == "docstrings":
        found = docstrings.build(track)
    elif source == "beir":
        found = beir.read(_here(_needed(path, "--path", source), cache), on_bad, track)
    elif source == "hub":
        found = from_hub(
            _needed(path, "--path", source),
            query=_needed(query, "--query", source),
            passage=_needed(passage, "--passage", source),
            cache=cache,
            on_bad=on_bad,
        )
    elif source in RECIPES:
        recipe = RECIPES[source]
        found = recipe.build(path or recipe.hub, cache=cache, on_bad=on_bad)
    else:
        raise DataError(f"source: must be one of {', '.join(SOURCES)}, got {source!r}")
    return dataclasses.replace(found, name=name) if name else found


def _here(path: str, cache: Path) -> Path:
    """A folder on this machine; what is behind a URI is fetched anew into the cache."""
    if "://" not in path:
        return Path(path)
    from retreever.system.storage import fetch  # pyarrow takes a while to import

    with write_aside(cache / "fetched" / path.rstrip("/").rpartition("/")[2]) as aside:
        fetch(path, aside)
    return cache / "fetched" / path.rstrip("/").rpartition("/")[2]


def _needed(value: str | None, option: str, source: str) -> str:
    if not value:
        raise DataError(f"{option}: the source {source} needs it")
    return value
