"""Data sets on disk in BEIR layout: read with every line checked, write whole or not at all.

    corpus.jsonl[.gz]                {"_id", "title", "text", "metadata"}; title and metadata may be left out
    queries.jsonl[.gz]               {"_id", "text", "metadata"}; metadata may be left out
    qrels/{train,dev,test}.tsv[.gz]  a header line, then: query id, passage id, whole-number score

Decides what a bad line is. Knows no other layout and no data set by name.
"""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from retreever.data.bad_lines import BadLine, Faults, OnBad, identity, shown, string
from retreever.data.dataset import SPLITS, Passage, Query, RetrievalDataset
from retreever.errors import DataError
from retreever.system.files import write_aside
from retreever.system.progress import Track, silent

HEADER = "query-id\tcorpus-id\tscore"
OURS = {"corpus.jsonl", "corpus.jsonl.gz", "queries.jsonl", "queries.jsonl.gz", "qrels"}
SCORE = re.compile(r"[+-]?[0-9]{1,18}")  # 18 digits always fit 64 bits
Item = TypeVar("Item", Passage, Query)


def read(folder: Path | str, on_bad: OnBad = "refuse", track: Track = silent) -> RetrievalDataset:
    """Read a folder in BEIR layout; its name becomes the data set's.

    A bad line is one that is not UTF-8 or not a JSON object, whose id is missing, of another type or taken,
    whose text is empty (of a passage: title and text), or that holds an unpaired surrogate; in qrels, one
    without exactly three columns and a whole-number score, one that points to an id that is not there, and
    one that repeats a pair. Blank lines are passed over.

    Args:
        on_bad: stop at the first bad line, or leave bad lines out and count them in `skipped` by file and
            rule. Judgements of a skipped text then point nowhere, and are skipped and counted as well.

    Raises:
        DataError: a bad line, with file, line number and rule; and whatever `on_bad` says, no corpus, no
            queries, no judgement at all, a file that is there twice (plain and gzipped) or cannot be
            unpacked.
    """
    folder = Path(folder)
    faults = Faults(on_bad)
    corpus = _read_texts(_required(folder, "corpus.jsonl"), _passage, faults, track)
    queries = _read_texts(_required(folder, "queries.jsonl"), _query, faults, track)
    rows = _rows(queries), _rows(corpus)
    paths = {split: _find(folder / "qrels", f"{split}.tsv") for split in SPLITS}
    qrels = {split: _read_qrels(path, *rows, faults, track) for split, path in paths.items() if path}
    if not any(map(len, qrels.values())):
        raise DataError(f"{folder / 'qrels'}: no usable judgement in any of {', '.join(SPLITS)} (.tsv or .tsv.gz)")
    return RetrievalDataset(folder.resolve().name, tuple(corpus), tuple(queries), qrels, dict(faults.counts))


def write(dataset: RetrievalDataset, folder: Path | str) -> None:
    """Write a folder in BEIR layout, gzipped; the same data set gives the same bytes.

    A data set that is already at `folder` is replaced. `read` gives back an equal data set where the folder
    has the data set's name and metadata is made of what JSON knows.

    Raises:
        DataError: `folder` holds something else than a data set, or metadata cannot be written as JSON.
    """
    folder = Path(folder)
    _refuse_to_replace(folder)
    with write_aside(folder) as aside:
        (aside / "qrels").mkdir(parents=True)
        _write_lines(
            aside / "corpus.jsonl.gz",
            (_json(p.id, p.metadata, title=p.title, text=p.text) for p in dataset.corpus),
        )
        _write_lines(aside / "queries.jsonl.gz", (_json(q.id, q.metadata, text=q.text) for q in dataset.queries))
        for split, rows in dataset.qrels.items():
            _write_lines(aside / "qrels" / f"{split}.tsv.gz", _qrel_lines(dataset, rows))


def _required(folder: Path, name: str) -> Path:
    path = _find(folder, name)
    if path is None:
        raise DataError(f"{folder / name}: file is missing, and so is {name}.gz")
    return path


def _find(folder: Path, name: str) -> Path | None:
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if len(found) == 2:
        raise DataError(f"{found[0]}: is there twice, plain and gzipped; remove one of the two")
    return found[0] if found else None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def _text(number: int, line: bytes) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadLine("not UTF-8", f"at byte {error.start} of the line") from None
    return text.removeprefix("\ufeff") if number == 1 else text


def _record(text: str) -> dict[str, Any]:
    try:
        record = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadLine("broken JSON", str(error)) from None
    if not isinstance(record, dict):
        raise BadLine("not a JSON object", f"got {shown(record)}")
    if "_id" not in record:
        raise BadLine("no _id", f"there are: {shown(sorted(record))}")
    return record


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _metadata(record: dict[str, Any]) -> dict[str, Any]:
    metadata = record.get("metadata")
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise BadLine("metadata must be an object", f"got {shown(metadata)}")
    string(json.dumps(metadata, ensure_ascii=False), "metadata")
    return metadata


def _passage(record: dict[str, Any]) -> Passage:
    title, text = string(record.get("title", ""), "title"), string(record.get("text"), "text")
    if not (text.strip() or title.strip()):
        raise BadLine("empty text", "neither title nor text holds a word")
    return Passage(identity(record["_id"]), text, title, _metadata(record))


def _query(record: dict[str, Any]) -> Query:
    text = string(record.get("text"), "text")
    if not text.strip():
        raise BadLine("empty text")
    return Query(identity(record["_id"]), text, _metadata(record))


def _read_texts(path: Path, make: Callable[[dict[str, Any]], Item], faults: Faults, track: Track) -> list[Item]:
    items: dict[str, Item] = {}
    for number, line in track(_lines(path), f"reading {path.name}"):
        try:
            item = make(_record(_text(number, line)))
            if item.id in items:
                raise BadLine("duplicate id", f"{item.id!r} is taken by an earlier line")
        except BadLine as bad:
            faults.add(path.name, f"{path}:{number}", bad)
            continue
        items[item.id] = item
    return list(items.values())


def _rows(items: Iterable[Passage | Query]) -> dict[str, int]:
    return {item.id: row for row, item in enumerate(items)}


def _read_qrels(
    path: Path, queries: dict[str, int], passages: dict[str, int], faults: Faults, track: Track
) -> np.ndarray:
    scores: dict[tuple[int, int], int] = {}
    first = True
    for number, line in track(_lines(path), f"reading {path.name}"):
        try:
            header, first = first, False
            columns = _columns(_text(number, line), header)
            if columns is not None:
                _judge(columns, queries, passages, scores)
        except BadLine as bad:
            faults.add(f"qrels/{path.name}", f"{path}:{number}", bad)
    rows = [(query, passage, score) for (query, passage), score in scores.items()]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _columns(text: str, header: bool) -> list[str] | None:
    """The three columns of a judgement; nothing for the header line."""
    columns = text.rstrip("\r\n").split("\t")
    if len(columns) != 3:
        raise BadLine("must have three columns", f"got {len(columns)}")
    if header == (SCORE.fullmatch(columns[2]) is not None):
        if header:
            raise BadLine("no header line", f"the file starts with {shown(text.strip())}")
        raise BadLine("score must be a whole number", f"got {columns[2]!r}")
    return None if header else columns


def _judge(
    columns: list[str], queries: dict[str, int], passages: dict[str, int], scores: dict[tuple[int, int], int]
) -> None:
    query, passage = queries.get(columns[0]), passages.get(columns[1])
    if query is None:
        raise BadLine("dangling query", f"no query has the id {columns[0]!r}")
    if passage is None:
        raise BadLine("dangling passage", f"no passage has the id {columns[1]!r}")
    if (query, passage) in scores:
        raise BadLine("repeated pair", f"{columns[0]!r}, {columns[1]!r} has been judged by an earlier line")
    scores[query, passage] = int(columns[2])


def _refuse_to_replace(folder: Path) -> None:
    """Writing replaces the whole folder, so a wrong path must not cost anybody their files."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file, a data set needs a folder")
    strangers = sorted({path.name for path in folder.iterdir()} - OURS) if folder.is_dir() else []
    if strangers:
        raise DataError(f"{folder}: holds {strangers[0]!r}, which is no part of a data set and would be lost")


def _json(identity: str, metadata: dict[str, Any], **texts: str) -> str:
    record = {"_id": identity, **texts, **({"metadata": metadata} if metadata else {})}
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{identity!r}: metadata cannot be written as JSON: {error}") from None


def _qrel_lines(dataset: RetrievalDataset, rows: np.ndarray) -> Iterator[str]:
    yield HEADER
    for query, passage, score in rows.tolist():
        yield f"{dataset.queries[query].id}\t{dataset.corpus[passage].id}\t{score}"


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    # A gzip header holds a time and a file name; left out, the bytes depend on the lines alone.
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
        packed.writelines(f"{line}\n".encode() for line in lines)
