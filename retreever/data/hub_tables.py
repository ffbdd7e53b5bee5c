"""From a Hugging Face data set, on the Hub or on disk, to tables by split.

It decides which file belongs to which split, and keeps everything fetched in one folder that the caller names. It
fetches the data files of a Hub repository and reads them itself; it neither fetches nor runs scripts. It does not know
what the columns mean.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from retreever.errors import DataError

FILE_FORMATS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
USUAL_SPLIT_NAMES = {"train": ("train",), "dev": ("validation", "valid", "val", "dev"), "test": ("test",)}
HUB_ID_PATTERN = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def load_split_tables(
    path: str | Path,
    cache: Path,
    *,
    names: Sequence[str] = (),
    config: str | None = None,
    revision: str | None = None,
) -> dict[str, Any]:
    """Tables (`datasets.Dataset`) by the source's names of its splits.

    A file belongs to the split that its path names last, as a whole word:
    `pair/train-00000-of-00001.parquet` and `data/topiocqa_train.jsonl` belong to `train`. Where no file names
    a split, all of them are `train`.

    Args:
        path: a folder written by `save_to_disk`, a folder of files, a file (json, jsonl, csv, parquet), or
            the id of a data set on the Hub.
        cache: folder for everything fetched and unpacked.
        names: splits to read; empty: all with a usual name.
        config: only files whose path names this configuration (on disk: all files where none does); None:
            all.
        revision: git revision on the Hub.

    Raises:
        DataError: no data at `path`, a missing split, or a file that cannot be read.
    """
    source = Path(path).expanduser()
    if not source.exists():
        source = _fetch_hub_files(str(path), Path(cache), config, revision)
    if (source / "dataset_dict.json").is_file() or (source / "state.json").is_file():
        saved = _load_saved_dataset(source)
        return {name: saved[name] for name in _select_splits(path, names, saved)}
    files = _group_by_split(_list_data_files(source, config), source, names)
    return {name: _read_split(files[name], Path(cache)) for name in _select_splits(path, names, files)}


def find_usual_splits(path: str | Path, found: Mapping[str, Any]) -> dict[str, str]:
    """Our splits and the source's names for them, where the source uses a usual name.

    >>> find_usual_splits("nq", {"train": ..., "validation": ...})
    {'train': 'train', 'dev': 'validation'}

    Raises:
        DataError: no split has a usual name.
    """
    usual = {ours: [name for name in names if name in found] for ours, names in USUAL_SPLIT_NAMES.items()}
    if not any(usual.values()):
        raise DataError(f"{path}: no split of a usual name, so they must be named; there are: {', '.join(found)}")
    return {ours: names[0] for ours, names in usual.items() if names}


def iterate_rows(table: Any, columns: Sequence[str], where: str) -> Iterator[tuple[Any, ...]]:
    """Values of the given columns, row by row; `passage.text` is the field `text` of the column `passage`.

    Raises:
        DataError: a missing column; the message lists the existing ones.
    """
    if not set(columns) <= set(table.column_names):
        table = table.flatten()
    for column in columns:
        if column not in table.column_names:
            raise DataError(f"{where}: no column {column!r}; there are: {', '.join(table.column_names)}")
    for batch in table.select_columns(list(dict.fromkeys(columns))).iter(batch_size=1000):
        yield from zip(*(batch[column] for column in columns), strict=True)


def _select_splits(path: str | Path, names: Sequence[str], found: Mapping[str, Any]) -> list[str]:
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{path}: no split {', '.join(map(repr, missing))}; there are: {', '.join(found)}")
    return list(dict.fromkeys(names or found))


def _fetch_hub_files(path: str, cache: Path, config: str | None, revision: str | None) -> Path:
    if not HUB_ID_PATTERN.fullmatch(path):
        raise DataError(f"{path}: no such file or folder, and not the form of an id on the Hub (owner/name)")
    import huggingface_hub

    wanted = f"*{config}*" if config else "*"
    try:
        with _hide_progress_bars():
            folder = huggingface_hub.snapshot_download(
                path,
                repo_type="dataset",
                revision=revision,
                cache_dir=cache / "hub",
                allow_patterns=[f"{wanted}{suffix}" for suffix in FILE_FORMATS],
            )
    except Exception as error:  # the Hub's client also raises errors of its HTTP library
        raise DataError(
            f"{path}: no such file or folder, and cannot be fetched from the Hub: {_flatten_error(error)}"
        ) from None
    return Path(folder)


def _list_data_files(source: Path, config: str | None) -> list[Path]:
    if source.is_file():
        if source.suffix not in FILE_FORMATS:
            raise DataError(f"{source}: must be one of {', '.join(FILE_FORMATS)}")
        return [source]
    files = [path for path in sorted(source.rglob("*")) if path.suffix in FILE_FORMATS and path.is_file()]
    files = [path for path in files if not path.name.startswith("dataset_info")]  # describes the data, holds none
    named = [path for path in files if config and _find_last_mention(config, path.relative_to(source)) >= 0]
    if not files:
        raise DataError(f"{source}: holds no file of {', '.join(FILE_FORMATS)}")
    return named or files


def _find_last_mention(name: str, path: Path) -> int:
    """Position where a path last names a split or configuration as a whole word; -1 where it does not."""
    word = rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])"
    return max((match.start() for match in re.finditer(word, str(path.with_suffix("")))), default=-1)


def _group_by_split(files: Sequence[Path], source: Path, names: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in files:
        relative = Path(path.name) if path == source else path.relative_to(source)
        place, name = max(
            (_find_last_mention(name, relative), name) for name in (*names, *chain(*USUAL_SPLIT_NAMES.values()))
        )
        if place >= 0:
            found.setdefault(name, []).append(str(path))
    return found or {"train": [str(path) for path in files]}


def _read_split(files: list[str], cache: Path) -> Any:
    """Read one split by itself: `datasets` would refuse splits whose columns differ.

    It calls the reader of the file format, since `load_dataset` uses the network even for files on disk.
    """
    import datasets

    builder = FILE_FORMATS[Path(files[0]).suffix]
    read = getattr(datasets.Dataset, f"from_{builder}")
    try:
        with _hide_progress_bars():
            return read(files, cache_dir=str(cache))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{', '.join(files)}: cannot be read as {builder}: {_flatten_error(error.__cause__ or error)}"
        ) from None


def _load_saved_dataset(folder: Path) -> dict[str, Any]:
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: cannot be read as a saved data set: {_flatten_error(error)}") from None
    return dict(saved) if isinstance(saved, datasets.DatasetDict) else {"train": saved}


@contextmanager
def _hide_progress_bars() -> Iterator[None]:
    """Switch off the libraries' progress bars: only the command line draws on the terminal."""
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


def _flatten_error(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
