"""The four data sets of the paper, from the Hub or from a folder or files of the same columns.

It decides what is query and what is passage in each, as the authors' release prepares them; choices that the release
leaves open are marked "ours". It encodes nothing, but holds the encoder settings that a data set needs.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from retreever.data.bad_lines import OnBad
from retreever.data.dataset import RetrievalDataset
from retreever.data.dataset_assembly import RawPair, assemble_dataset
from retreever.data.dataset_splits import assign_split_by_hash
from retreever.data.hub import read_hub_dataset
from retreever.data.hub_tables import find_usual_splits, iterate_rows, load_split_tables

NQ_HUB_ID = "sentence-transformers/natural-questions"
HOTPOTQA_HUB_ID = "hotpotqa/hotpot_qa"
TOPIOCQA_HUB_ID = "McGill-NLP/TopiOCQA"
REPLIQA_HUB_ID = "ServiceNow/repliqa"

REPLIQA_DEV_DOCUMENTS = 400
NO_ANSWER_TEXTS = frozenset({"NA", "N/A", "UNANSWERABLE"})


@dataclass(frozen=True)
class PaperDataset:
    """The reader of one of the paper's data sets.

    Args:
        hub: its id on the Hub, the default `path` of `read`.
        read: `read(path, *, cache, revision=None, on_bad="refuse")`.
        encoder: settings of the encoder (fields of `EncoderConfig`) that its texts need.
    """

    name: str
    hub: str
    read: Callable[..., RetrievalDataset]
    encoder: Mapping[str, Any] = field(default_factory=dict)


def read_nq(
    path: str | Path = NQ_HUB_ID, *, cache: Path, revision: str | None = None, on_bad: OnBad = "refuse"
) -> RetrievalDataset:
    """Natural Questions: question -> the paragraph that answers it. Columns query, answer.

    The release has no script for it, so this is ours: where train is the only split, dev and test are 10 % of
    the queries each, by hash. For other columns use `read_hub_dataset`.
    """
    return read_hub_dataset(
        path,
        query="query",
        passage="answer",
        cache=cache,
        config="pair",
        revision=revision,
        name="nq",
        on_bad=on_bad,
    )


def read_hotpotqa(
    path: str | Path = HOTPOTQA_HUB_ID, *, cache: Path, revision: str | None = None, on_bad: OnBad = "refuse"
) -> RetrievalDataset:
    """HotpotQA, distractor setting: question -> its two gold paragraphs, one after the other.

    It is not comparable with BEIR's HotpotQA, whose passages are single paragraphs. Columns id, question,
    supporting_facts.title, context.title, context.sentences. Ours: paragraphs are sorted by title, so that
    equal pairs are one passage; the public validation split is test, and 10 % of train, by hash, are dev.
    """
    tables = _select_train_and_public(path, load_split_tables(path, cache, config="distractor", revision=revision))
    return assemble_dataset("hotpotqa", path, _read_hotpotqa_pairs(path, tables), on_bad)


def _read_hotpotqa_pairs(path: str | Path, tables: Mapping[str, Any]) -> Iterator[RawPair]:
    columns = ("id", "question", "supporting_facts.title", "context.title", "context.sentences")
    for source, table in tables.items():
        rows = iterate_rows(table, columns, f"{path}: split {source!r}")
        for number, (id, question, gold, titles, paragraphs) in enumerate(rows):
            passage = _join_gold_paragraphs(gold, titles, paragraphs)
            yield RawPair(_choose_split(source, str(question)), source, number, question, passage, query_id=id)


def _join_gold_paragraphs(
    gold: list[str] | None, titles: list[str] | None, paragraphs: list[list[str]] | None
) -> str | None:
    """Titles and sentences of the gold paragraphs; None (a bad row) where one is missing."""
    sentences = dict(zip(titles or (), paragraphs or (), strict=False))
    if not gold or not set(gold) <= sentences.keys():
        return None
    return "\n".join(f"{title}: {''.join(sentences[title]).strip()}" for title in sorted(set(gold)))


def read_topiocqa(
    path: str | Path = TOPIOCQA_HUB_ID, *, cache: Path, revision: str | None = None, on_bad: OnBad = "refuse"
) -> RetrievalDataset:
    """TopiOCQA: a whole conversation up to its last question -> the gold passage.

    The query holds all questions and answers so far and the current question, a line each, oldest first. It
    stays whole here; the encoder cuts it on the left (see PAPER_DATASETS). Columns Conversation_no, Turn_no,
    Question, Context, Gold_passage.title, Gold_passage.text. Ours: the public validation split is test, and
    10 % of the conversations of train, by hash, are dev; turns of one conversation stay together.
    """
    tables = _select_train_and_public(path, load_split_tables(path, cache, revision=revision))
    return assemble_dataset("topiocqa", path, _read_topiocqa_pairs(path, tables), on_bad)


def _read_topiocqa_pairs(path: str | Path, tables: Mapping[str, Any]) -> Iterator[RawPair]:
    columns = ("Conversation_no", "Turn_no", "Question", "Context", "Gold_passage.title", "Gold_passage.text")
    for source, table in tables.items():
        rows = iterate_rows(table, columns, f"{path}: split {source!r}")
        for number, (conversation, turn, question, history, title, passage) in enumerate(rows):
            query = "\n".join([*(history or ()), question]) if isinstance(question, str) else question
            id = f"{source}-{conversation}-{turn}"
            yield RawPair(
                _choose_split(source, str(conversation)),
                source,
                number,
                query,
                passage,
                title or "",
                query_id=id,
            )


def read_repliqa(
    path: str | Path = REPLIQA_HUB_ID, *, cache: Path, revision: str | None = None, on_bad: OnBad = "refuse"
) -> RetrievalDataset:
    """RepLiQA: question -> the long answer, a paragraph of a document about fictional people and places.

    repliqa_0 to repliqa_3 are train, without 400 documents of repliqa_3, which are dev; repliqa_4 is test. The
    choice of the 400 is ours: the lowest SHA-256 of the id. About 20 % of the questions have no answer; they
    are omitted and counted in `skipped`. Columns document_id, question_id, question, answer, long_answer.
    """
    tables = load_split_tables(path, cache, names=[f"repliqa_{part}" for part in range(5)], revision=revision)
    dropped: Counter[str] = Counter()
    return assemble_dataset("repliqa", path, _read_repliqa_pairs(path, tables, dropped), on_bad, dropped)


def _read_repliqa_pairs(path: str | Path, tables: Mapping[str, Any], dropped: Counter[str]) -> Iterator[RawPair]:
    columns = ("document_id", "question_id", "question", "answer", "long_answer")
    documents = {str(id) for (id,) in iterate_rows(tables["repliqa_3"], ("document_id",), f"{path}: split 'repliqa_3'")}
    dev = set(sorted(documents, key=lambda id: sha256(id.encode()).digest())[:REPLIQA_DEV_DOCUMENTS])
    for source, table in tables.items():
        rows = iterate_rows(table, columns, f"{path}: split {source!r}")
        for number, (document, id, question, answer, passage) in enumerate(rows):
            if _is_unanswered(answer) or _is_unanswered(passage):
                dropped[f"{source}: question without an answer"] += 1
                continue
            held_out = source == "repliqa_3" and str(document) in dev
            split = "test" if source == "repliqa_4" else "dev" if held_out else "train"
            yield RawPair(split, source, number, question, passage, query_id=id)


def _is_unanswered(text: Any) -> bool:
    return isinstance(text, str) and text.strip(" .\n").upper() in NO_ANSWER_TEXTS


def _select_train_and_public(path: str | Path, tables: Mapping[str, Any]) -> dict[str, Any]:
    """Tables of the source's train and public validation split, by the source's names."""
    usual = find_usual_splits(path, tables)
    return {usual[split]: tables[usual[split]] for split in ("train", "dev") if split in usual}


def _choose_split(source: str, key: str) -> str:
    """Our split for a source whose public validation split is our test split: dev is a part of train."""
    return assign_split_by_hash(key, dev=0.1, test=0.0) if source == "train" else "test"


PAPER_DATASETS = {
    "nq": PaperDataset("nq", NQ_HUB_ID, read_nq),
    "hotpotqa": PaperDataset("hotpotqa", HOTPOTQA_HUB_ID, read_hotpotqa, {"passage_max_length": 512}),
    "topiocqa": PaperDataset(
        "topiocqa", TOPIOCQA_HUB_ID, read_topiocqa, {"query_truncation": "left", "query_max_length": 512}
    ),
    "repliqa": PaperDataset("repliqa", REPLIQA_HUB_ID, read_repliqa),
}
