"""Data sets on disk in BEIR layout: read with every line checked, write whole or not at all.

    corpus.jsonl[.gz]                {"_id", "title", "text", "metadata"}; title and metadata are optional
    queries.jsonl[.gz]               {"_id", "text", "metadata"}; metadata is optional
    qrels/{train,dev,test}.tsv[.gz]  a header line, then: query id, passage id, whole-number score

A corpus alone has neither queries nor qrels. This module decides what a bad line is. It knows no other layout and no
data set by name.
"""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from retreever.data.bad_lines import BadLine, BadLineHandler, OnBad, parse_id, require_string, shorten_repr
from retreever.data.dataset import DATASET_SPLITS, Passage, Query, RetrievalDataset
from retreever.errors import DataError
from retreever.system.files import write_atomically
from retreever.system.progress import Track, track_silently

QRELS_HEADER = "query-id\tcorpus-id\tscore"
BEIR_FILES = {"corpus.jsonl", "corpus.jsonl.gz", "queries.jsonl", "queries.jsonl.gz", "qrels"}
SCORE_PATTERN = re.compile(r"[+-]?[0-9]{1,18}")  # 18 digits always fit 64 bits
TextRecord = TypeVar("TextRecord", Passage, Query)


def read_beir(folder: Path | str, on_bad: OnBad = "refuse", track: Track = track_silently) -> RetrievalDataset:
    """Read a folder in BEIR layout; its name becomes the data set's.

    A text line is bad where it is not UTF-8 or not a JSON object, where its id is missing, taken or of another
    type, where its text is empty (of a passage: title and text), or where it holds an unpaired surrogate. A
    line of qrels is bad where it does not have three columns and a whole-number score, where it names an
    unknown id, or where it repeats a pair. Blank lines are ignored.

    Args:
        on_bad: stop at the first bad line, or skip bad lines and count them in `skipped` by file and rule.
            Judgements of a skipped text then point nowhere; they are skipped and counted as well.

    Raises:
        DataError: a bad line, with file, line number and rule. Under either `on_bad`: no passage, queries without
            judgements or judgements without queries, a file both plain and gzipped, or a file that cannot be
            unpacked.
    """
    folder = Path(folder)
    faults = BadLineHandler(on_bad)
    corpus = _read_texts(_require_file(folder, "corpus.jsonl"), _parse_passage, faults, track)
    if not corpus:
        raise DataError(f"{folder / 'corpus.jsonl'}: no usable passage")
    if _find_file(folder, "queries.jsonl") is None and not (folder / "qrels").is_dir():
        return RetrievalDataset(folder.resolve().name, tuple(corpus), (), {}, dict(faults.counts))
    queries = _read_texts(_require_file(folder, "queries.jsonl"), _parse_query, faults, track)
    rows = _map_ids_to_rows(queries), _map_ids_to_rows(corpus)
    paths = {split: _find_file(folder / "qrels", f"{split}.tsv") for split in DATASET_SPLITS}
    qrels = {split: _read_qrels(path, *rows, faults, track) for split, path in paths.items() if path}
    if not any(map(len, qrels.values())):
        raise DataError(
            f"{folder / 'qrels'}: no usable judgement in any of {', '.join(DATASET_SPLITS)} (.tsv or .tsv.gz)"
        )
    return RetrievalDataset(folder.resolve().name, tuple(corpus), tuple(queries), qrels, dict(faults.counts))


def write_beir(dataset: RetrievalDataset, folder: Path | str) -> None:
    """Write a folder in BEIR layout, gzipped; the same data set gives the same bytes.

    A data set that is already at `folder` is replaced. A corpus alone gets no other file. `read_beir` returns an
    equal data set where the folder has the data set's name and metadata holds JSON values only.

    Raises:
        DataError: `folder` holds other files than a data set's, or metadata cannot be written as JSON.
    """
    folder = Path(folder)
    _refuse_to_replace(folder)
    with write_atomically(folder) as aside:
        aside.mkdir(parents=True)
        _write_lines(
            aside / "corpus.jsonl.gz",
            (_format_record(p.id, p.metadata, title=p.title, text=p.text) for p in dataset.corpus),
        )
        if not (dataset.queries or dataset.qrels):
            return
        _write_lines(
            aside / "queries.jsonl.gz", (_format_record(q.id, q.metadata, text=q.text) for q in dataset.queries)
        )
        (aside / "qrels").mkdir()
        for split, rows in dataset.qrels.items():
            _write_lines(aside / "qrels" / f"{split}.tsv.gz", _format_qrels(dataset, rows))


def _require_file(folder: Path, name: str) -> Path:
    path = _find_file(folder, name)
    if path is None:
        raise DataError(f"{folder / name}: file is missing, and so is {name}.gz")
    return path


def _find_file(folder: Path, name: str) -> Path | None:
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if len(found) == 2:
        raise DataError(f"{found[0]}: is there twice, plain and gzipped; remove one of the two")
    return found[0] if found else None


def _read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def _decode_line(number: int, line: bytes) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadLine("not UTF-8", f"at byte {error.start} of the line") from None
    return text.removeprefix("\ufeff") if number == 1 else text


def _parse_record(text: str) -> dict[str, Any]:
    try:
        record = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadLine("broken JSON", str(error)) from None
    if not isinstance(record, dict):
        raise BadLine("not a JSON object", f"got {shorten_repr(record)}")
    if "_id" not in record:
        raise BadLine("no _id", f"there are: {shorten_repr(sorted(record))}")
    return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _parse_metadata(record: dict[str, Any]) -> dict[str, Any]:
    metadata = record.get("metadata")
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise BadLine("metadata must be an object", f"got {shorten_repr(metadata)}")
    require_string(json.dumps(metadata, ensure_ascii=False), "metadata")
    return metadata


def _parse_passage(record: dict[str, Any]) -> Passage:
    title, text = require_string(record.get("title", ""), "title"), require_string(record.get("text"), "text")
    if not (text.strip() or title.strip()):
        raise BadLine("empty text", "neither title nor text holds a word")
    return Passage(parse_id(record["_id"]), text, title, _parse_metadata(record))


def _parse_query(record: dict[str, Any]) -> Query:
    text = require_string(record.get("text"), "text")
    if not text.strip():
        raise BadLine("empty text")
    return Query(parse_id(record["_id"]), text, _parse_metadata(record))


def _read_texts(
    path: Path, make: Callable[[dict[str, Any]], TextRecord], faults: BadLineHandler, track: Track
) -> list[TextRecord]:
    items: dict[str, TextRecord] = {}
    for number, line in track(_read_lines(path), f"reading {path.name}"):
        try:
            item = make(_parse_record(_decode_line(number, line)))
            if item.id in items:
                raise BadLine("duplicate id", f"{item.id!r} is taken by an earlier line")
        except BadLine as bad:
            faults.add(path.name, f"{path}:{number}", bad)
            continue
        items[item.id] = item
    return list(items.values())


def _map_ids_to_rows(items: Iterable[Passage | Query]) -> dict[str, int]:
    return {item.id: row for row, item in enumerate(items)}


def _read_qrels(
    path: Path, queries: dict[str, int], passages: dict[str, int], faults: BadLineHandler, track: Track
) -> np.ndarray:
    scores: dict[tuple[int, int], int] = {}
    first = True
    for number, line in track(_read_lines(path), f"reading {path.name}"):
        try:
            header, first = first, False
            columns = _parse_judgement(_decode_line(number, line), header)
            if columns is not None:
                _add_judgement(columns, queries, passages, scores)
        except BadLine as bad:
            faults.add(f"qrels/{path.name}", f"{path}:{number}", bad)
    rows = [(query, passage, score) for (query, passage), score in scores.items()]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _parse_judgement(text: str, header: bool) -> list[str] | None:
    """The three columns of a judgement; None for the header line."""
    columns = text.rstrip("\r\n").split("\t")
    if len(columns) != 3:
        raise BadLine("must have three columns", f"got {len(columns)}")
    if header == (SCORE_PATTERN.fullmatch(columns[2]) is not None):
        if header:
            raise BadLine("no header line", f"the file starts with {shorten_repr(text.strip())}")
        raise BadLine("score must be a whole number", f"got {columns[2]!r}")
    return None if header else columns


def _add_judgement(
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
    """Refuse a folder with other files: writing replaces the whole folder, and a wrong path would lose them."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file, a data set needs a folder")
    other_files = sorted({path.name for path in folder.iterdir()} - BEIR_FILES) if folder.is_dir() else []
    if other_files:
        raise DataError(f"{folder}: holds {other_files[0]!r}, which is no part of a data set and would be lost")


def _format_record(identity: str, metadata: dict[str, Any], **texts: str) -> str:
    record = {"_id": identity, **texts, **({"metadata": metadata} if metadata else {})}
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{identity!r}: metadata cannot be written as JSON: {error}") from None


def _format_qrels(dataset: RetrievalDataset, rows: np.ndarray) -> Iterator[str]:
    yield QRELS_HEADER
    for query, passage, score in rows.tolist():
        yield f"{dataset.queries[query].id}\t{dataset.corpus[passage].id}\t{score}"


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    # Without time and file name in the gzip header, the bytes depend on the lines alone.
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
        packed.writelines(f"{line}\n".encode() for line in lines)
