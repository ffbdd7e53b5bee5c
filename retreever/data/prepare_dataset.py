"""From the name of a source to a data set, for `retreever data SOURCE`."""

import dataclasses
from pathlib import Path

from retreever.data import beir, docstrings
from retreever.data.bad_lines import OnBad
from retreever.data.dataset import RetrievalDataset
from retreever.data.hub import read_hub_dataset
from retreever.data.paper_datasets import PAPER_DATASETS
from retreever.errors import DataError
from retreever.system.files import write_atomically
from retreever.system.progress import Track, track_silently

DATASET_SOURCES = ("docstrings", "beir", "hub", *PAPER_DATASETS)


def prepare_dataset(
    source: str,
    path: str | None = None,
    *,
    name: str | None = None,
    query: str | None = None,
    passage: str | None = None,
    on_bad: OnBad = "refuse",
    cache: Path,
    track: Track = track_silently,
) -> RetrievalDataset:
    """Read a data set from `source`.

    Args:
        source: docstrings, beir (a folder or URI), hub (any data set, by its columns) or one of PAPER_DATASETS.
        path: of beir: the folder or its URI; of hub: an id or local files; of the paper's: local files instead of
            the id; of docstrings: unused.
        name: name of the data set; None: the source's own.
        query, passage: of hub: names of the columns.
        cache: folder for downloads.

    Raises:
        DataError: an unknown source, a missing argument, or bad data.
        StorageError: a URI that cannot be read.
    """
    if source == "docstrings":
        found = docstrings.build_docstring_dataset(track)
    elif source == "beir":
        found = beir.read_beir(_fetch_folder(_require_option(path, "--path", source), cache), on_bad, track)
    elif source == "hub":
        found = read_hub_dataset(
            _require_option(path, "--path", source),
            query=_require_option(query, "--query", source),
            passage=_require_option(passage, "--passage", source),
            cache=cache,
            on_bad=on_bad,
        )
    elif source in PAPER_DATASETS:
        paper_dataset = PAPER_DATASETS[source]
        found = paper_dataset.read(path or paper_dataset.hub, cache=cache, on_bad=on_bad)
    else:
        raise DataError(f"source: must be one of {', '.join(DATASET_SOURCES)}, got {source!r}")
    return dataclasses.replace(found, name=name) if name else found


def _fetch_folder(path: str, cache: Path) -> Path:
    """The path of a local folder, or of a fresh download of a URI into the cache."""
    if "://" not in path:
        return Path(path)
    from retreever.system.storage import download_folder  # pyarrow takes a while to import

    with write_atomically(cache / "fetched" / path.rstrip("/").rpartition("/")[2]) as aside:
        download_folder(path, aside)
    return cache / "fetched" / path.rstrip("/").rpartition("/")[2]


def _require_option(value: str | None, option: str, source: str) -> str:
    if not value:
        raise DataError(f"{option}: the source {source} needs it")
    return value
