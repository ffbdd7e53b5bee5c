"""From a Hugging Face data set, on the Hub or on disk, to tables by split.

Decides which file belongs to which split, and that everything fetched lies in one folder the caller names.
The files of a Hub repository are fetched as they are and read here; scripts in a repository are neither
fetched nor run. Does not know what the columns mean.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from retreever.errors import DataError

BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
USUAL = {"train": ("train",), "dev": ("validation", "valid", "val", "dev"), "test": ("test",)}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def load_splits(
    path: str | Path,
    cache: Path,
    *,
    names: Sequence[str] = (),
    config: str | None = None,
    revision: str | None = None,
) -> dict[str, Any]:
    """Tables (`datasets.Dataset`) by the name that the source gives its splits.

    A file belongs to the split that its path names last, as a word of its own:
    `pair/train-00000-of-00001.parquet` and `data/topiocqa_train.jsonl` are of `train`. Where no file names
    any, all of them are `train`.

    Args:
        path: a folder written by `save_to_disk`, a folder of files, a file (json, jsonl, csv, parquet), or
            the id of a data set on the Hub.
        cache: folder for everything fetched and unpacked.
        names: splits wanted; none: all that go by a usual name.
        config: only files whose path names this configuration (on disk: all of them where none does); None:
            all.
        revision: git revision on the Hub.

    Raises:
        DataError: nothing there, a wanted split is not there, or a file cannot be read.
    """
    source = Path(path).expanduser()
    if not source.exists():
        source = _fetch(str(path), Path(cache), config, revision)
    if (source / "dataset_dict.json").is_file() or (source / "state.json").is_file():
        saved = _saved(source)
        return {name: saved[name] for name in _wanted(path, names, saved)}
    files = _by_split(_data_files(source, config), source, names)
    return {name: _read(files[name], Path(cache)) for name in _wanted(path, names, files)}


def usual_splits(path: str | Path, found: Mapping[str, Any]) -> dict[str, str]:
    """Our splits and what the source calls them, for those that go by a usual name.

    >>> usual_splits("nq", {"train": ..., "validation": ...})
    {'train': 'train', 'dev': 'validation'}

    Raises:
        DataError: none of them does.
    """
    usual = {ours: [name for name in names if name in found] for ours, names in USUAL.items()}
    if not any(usual.values()):
        raise DataError(f"{path}: no split of a usual name, so they must be named; there are: {', '.join(found)}")
    return {ours: names[0] for ours, names in usual.items() if names}


def rows_of(table: Any, columns: Sequence[str], where: str) -> Iterator[tuple[Any, ...]]:
    """Values of the given columns, row by row; `passage.text` is the field `text` of the column `passage`.

    Raises:
        DataError: a column is not there; the message lists those that are.
    """
    if not set(columns) <= set(table.column_names):
        table = table.flatten()
    for column in columns:
        if column not in table.column_names:
            raise DataError(f"{where}: no column {column!r}; there are: {', '.join(table.column_names)}")
    for batch in table.select_columns(list(dict.fromkeys(columns))).iter(batch_size=1000):
        yield from zip(*(batch[column] for column in columns), strict=True)


def _wanted(path: str | Path, names: Sequence[str], found: Mapping[str, Any]) -> list[str]:
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{path}: no split {', '.join(map(repr, missing))}; there are: {', '.join(found)}")
    return list(dict.fromkeys(names or found))


def _fetch(path: str, cache: Path, config: str | None, revision: str | None) -> Path:
    if not HUB_ID.fullmatch(path):
        raise DataError(f"{path}: no such file or folder, and not the form of an id on the Hub (owner/name)")
    import huggingface_hub

    wanted = f"*{config}*" if config else "*"
    try:
        with _without_bars():
            folder = huggingface_hub.snapshot_download(
                path,
                repo_type="dataset",
                revision=revision,
                cache_dir=cache / "hub",
                allow_patterns=[f"{wanted}{suffix}" for suffix in BUILDERS],
            )
    except Exception as error:  # the Hub's client lets through errors of the HTTP library it happens to use
        raise DataError(f"{path}: no such file or folder, and cannot be fetched from the Hub: {_line(error)}") from None
    return Path(folder)


def _data_files(source: Path, config: str | None) -> list[Path]:
    if source.is_file():
        if source.suffix not in BUILDERS:
            raise DataError(f"{source}: must be one of {', '.join(BUILDERS)}")
        return [source]
    files = [path for path in sorted(source.rglob("*")) if path.suffix in BUILDERS and path.is_file()]
    files = [path for path in files if not path.name.startswith("dataset_info")]  # about the data, not data
    named = [path for path in files if config and _last_place(config, path.relative_to(source)) >= 0]
    if not files:
        raise DataError(f"{source}: holds no file of {', '.join(BUILDERS)}")
    return named or files


def _last_place(name: str, path: Path) -> int:
    """Where a path names a split or configuration last, as a word of its own; -1 where it does not."""
    word = rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])"
    return max((match.start() for match in re.finditer(word, str(path.with_suffix("")))), default=-1)


def _by_split(files: Sequence[Path], source: Path, names: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in files:
        relative = Path(path.name) if path == source else path.relative_to(source)
        place, name = max((_last_place(name, relative), name) for name in (*names, *chain(*USUAL.values())))
        if place >= 0:
            found.setdefault(name, []).append(str(path))
    return found or {"train": [str(path) for path in files]}


def _read(files: list[str], cache: Path) -> Any:
    """One split by itself: with several at once, columns that differ between splits would be refused.

    By the reader of its format, not by `load_dataset`, which calls home even for files on disk.
    """
    import datasets

    builder = BUILDERS[Path(files[0]).suffix]
    read = getattr(datasets.Dataset, f"from_{builder}")
    try:
        with _without_bars():
            return read(files, cache_dir=str(cache))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{', '.join(files)}: cannot be read as {builder}: {_line(error.__cause__ or error)}") from None


def _saved(folder: Path) -> dict[str, Any]:
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: cannot be read as a saved data set: {_line(error)}") from None
    return dict(saved) if isinstance(saved, datasets.DatasetDict) else {"train": saved}


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep the libraries from drawing on the terminal, which belongs to the command line."""
    import datasets
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    tables, hub = not datasets.are_progress_bars_disabled(), not are_progress_bars_disabled()
    datasets.disable_progress_bars()
    disable_progress_bars()
    try:
        yield
    finally:
        if tables:
            datasets.enable_progress_bars()
        if hub:
            enable_progress_bars()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
