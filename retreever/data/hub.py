"""Any Hugging Face data set of questions and texts, by naming its columns."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retreever.data.bad_lines import OnBad
from retreever.data.dataset import SPLITS, RetrievalDataset
from retreever.data.dataset_assembly import Row, assemble
from retreever.data.dataset_splits import by_hash
from retreever.data.hub_tables import load_splits, rows_of, usual_splits
from retreever.errors import DataError


def from_hub(
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
    the only split, 10 % of the queries become dev and 10 % test, drawn by a hash of the query. Code in a
    repository is never run.

    Args:
        path: the id of a data set on the Hub, a folder written by `save_to_disk`, a folder of files, or a
            file (json, jsonl, csv, parquet).
        query, passage, title, id, passage_id: names of the columns, `passage.text` being a field of one; `id`
            is the query's. Without ids they are numbered.
        cache: folder for everything fetched and unpacked; no data is written outside it.
        splits: our split -> the source's, e.g. {"train": "train", "dev": "validation"}; None: the usual
            names.
        name: of the data set; None: the last part of `path`.
        on_bad: stop at the first row with an empty or broken field, or leave such rows out and count them.

    Raises:
        DataError: a split or column that is not there (the message lists those that are), or a bad row.

    Example:
        from_hub("squad", query="question", passage="context", title="title", cache=workspace.root / "hub")
    """
    unknown = sorted(set(splits or ()) - set(SPLITS))
    if unknown:
        raise DataError(f"splits: {', '.join(map(repr, unknown))} must be one of {', '.join(SPLITS)}")
    tables = load_splits(path, cache, names=list((splits or {}).values()), config=config, revision=revision)
    chosen = splits or usual_splits(path, tables)
    columns = {"query": query, "passage": passage, "title": title, "query_id": id, "passage_id": passage_id}
    rows = _rows(path, {ours: (their, tables[their]) for ours, their in chosen.items()}, columns)
    return assemble(name or _last_part(Path(path)), path, rows, on_bad)


def _last_part(path: Path) -> str:
    return path.stem if path.is_file() else path.resolve().name


def _rows(path: str | Path, tables: Mapping[str, tuple[str, Any]], columns: Mapping[str, str | None]) -> Iterator[Row]:
    fields = {field: column for field, column in columns.items() if column is not None}
    cut = set(tables) == {"train"}
    for split, (source, table) in tables.items():
        for number, values in enumerate(rows_of(table, list(fields.values()), f"{path}: split {source!r}")):
            row = {field: "" if value is None else value for field, value in zip(fields, values, strict=True)}
            yield Row(by_hash(str(row["query"])) if cut else split, source, number, **row)
