"""Any Hugging Face data set of questions and texts, read by the names of its columns."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retreever.data.bad_lines import OnBad
from retreever.data.dataset import DATASET_SPLITS, RetrievalDataset
from retreever.data.dataset_assembly import RawPair, assemble_dataset
from retreever.data.dataset_splits import assign_split_by_hash
from retreever.data.hub_tables import find_usual_splits, iterate_rows, load_split_tables
from retreever.errors import DataError


def read_hub_dataset(
    path: str | Path,
    *,
    query: str,
    passage: str,
    cache: Path,
    id: str | None = None,
    passage_id: str | None = None,
    title: str | None = None,
    splits: Mapping[str, str] | None = None,
    config: str | None = None,
    revision: str | None = None,
    name: str | None = None,
    on_bad: OnBad = "refuse",
) -> RetrievalDataset:
    """Read a data set from the Hub or from local files, one (query, passage) pair a row.

    Rows with the same passage share it, and rows with the same query give it several passages. Where train is
    the only split, 10 % of the queries become dev and 10 % test, by a hash of the query. Code in a repository
    is never run.

    Args:
        path: the id of a data set on the Hub, a folder written by `save_to_disk`, a folder of files, or a
            file (json, jsonl, csv, parquet).
        query, passage, title, id, passage_id: names of columns; `passage.text` names a field of a column. `id`
            is the query's id. Texts without an id column are numbered.
        cache: folder for everything fetched and unpacked; no data is written outside it.
        splits: our split -> the source's, e.g. {"train": "train", "dev": "validation"}; None: the usual
            names.
        config: configuration of the data set; only files whose path names it are read.
        revision: git revision on the Hub.
        name: name of the data set; None: the last part of `path`.
        on_bad: stop at the first row with an empty or broken field, or skip such rows and count them.

    Raises:
        DataError: a missing split or column (the message lists the existing ones), or a bad row.

    Example:
        read_hub_dataset("squad", query="question", passage="context", title="title", cache=workspace.root / "hub")
    """
    unknown = sorted(set(splits or ()) - set(DATASET_SPLITS))
    if unknown:
        raise DataError(f"splits: {', '.join(map(repr, unknown))} must be one of {', '.join(DATASET_SPLITS)}")
    tables = load_split_tables(path, cache, names=list((splits or {}).values()), config=config, revision=revision)
    chosen = splits or find_usual_splits(path, tables)
    columns = {"query": query, "passage": passage, "title": title, "query_id": id, "passage_id": passage_id}
    rows = _read_pairs(path, {ours: (their, tables[their]) for ours, their in chosen.items()}, columns)
    return assemble_dataset(name or _name_of_path(Path(path)), path, rows, on_bad)


def _name_of_path(path: Path) -> str:
    return path.stem if path.is_file() else path.resolve().name


def _read_pairs(
    path: str | Path, tables: Mapping[str, tuple[str, Any]], columns: Mapping[str, str | None]
) -> Iterator[RawPair]:
    fields = {field: column for field, column in columns.items() if column is not None}
    splits_by_hash = set(tables) == {"train"}
    for split, (source, table) in tables.items():
        for number, values in enumerate(iterate_rows(table, list(fields.values()), f"{path}: split {source!r}")):
            row = {field: "" if value is None else value for field, value in zip(fields, values, strict=True)}
            yield RawPair(assign_split_by_hash(str(row["query"])) if splits_by_hash else split, source, number, **row)
