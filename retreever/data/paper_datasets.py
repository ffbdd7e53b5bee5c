"""The four data sets of the paper, from the Hub or from a folder or files of the same columns.

Decides what is query and what is passage in each, as the authors' release prepares them; what it leaves open
is marked "ours". Does not encode: settings of the encoder that a set calls for stand beside it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from retreever.data.bad_lines import OnBad
from retreever.data.dataset import RetrievalDataset
from retreever.data.dataset_assembly import Row, assemble
from retreever.data.dataset_splits import by_hash
from retreever.data.hub import from_hub
from retreever.data.hub_tables import load_splits, rows_of, usual_splits

NQ = "sentence-transformers/natural-questions"
HOTPOTQA = "hotpotqa/hotpot_qa"
TOPIOCQA = "McGill-NLP/TopiOCQA"
REPLIQA = "ServiceNow/repliqa"

REPLIQA_DEV_DOCUMENTS = 400
NO_ANSWER = frozenset({"NA", "N/A", "UNANSWERABLE"})


@dataclass(frozen=True)
class Recipe:
    """How to get one of the paper's data sets.

    Args:
        hub: its id on the Hub, the default `path` of `build`.
        build: `build(path, *, cache, revision=None, on_bad="refuse")`.
        encoder: settings of the encoder (fields of `EncoderConfig`) that its texts call for.
    """

    name: str
    hub: str
    build: Callable[..., RetrievalDataset]
    encoder: Mapping[str, Any] = field(default_factory=dict)


def nq(
    path: str | Path = NQ, *, cache: Path, revision: str | None = None, on_bad: OnBad = "refuse"
) -> RetrievalDataset:
    """Natural Questions: question -> the paragraph that answers it. Columns query, answer.

    The release has no script for it, so this is ours: dev and test are 10 % of the queries each, drawn by
    hash, where train is the only split. For other columns use `from_hub`.
    """
    return from_hub(
        path,
        query="query",
        passage="answer",
        cache=cache,
        config="pair",
        revision=revision,
        name="nq",
        on_bad=on_bad,
    )


def hotpotqa(
    path: str | Path = HOTPOTQA, *, cache: Path, revision: str | None = None, on_bad: OnBad = "refuse"
) -> RetrievalDataset:
    """HotpotQA, distractor setting: question -> its two gold paragraphs, one after the other.

    Not comparable with BEIR's HotpotQA, whose passages are single paragraphs. Columns id, question,
    supporting_facts.title, context.title, context.sentences. Ours: paragraphs are put in order of their
    titles, so that equal pairs are one passage; the public validation split is test, and 10 % of train, by
    hash, are dev.
    """
    tables = _train_and_public(path, load_splits(path, cache, config="distractor", revision=revision))
    return assemble("hotpotqa", path, _hotpotqa_rows(path, tables), on_bad)


def _hotpotqa_rows(path: str | Path, tables: Mapping[str, Any]) -> Iterator[Row]:
    columns = ("id", "question", "supporting_facts.title", "context.title", "context.sentences")
    for source, table in tables.items():
        rows = rows_of(table, columns, f"{path}: split {source!r}")
        for number, (id, question, gold, titles, paragraphs) in enumerate(rows):
            passage = _gold_paragraphs(gold, titles, paragraphs)
            yield Row(_dev_or_test(source, str(question)), source, number, question, passage, query_id=id)


def _gold_paragraphs(
    gold: list[str] | None, titles: list[str] | None, paragraphs: list[list[str]] | None
) -> str | None:
    """Titles and sentences of the gold paragraphs; None, which is a bad row, where one is missing."""
    sentences = dict(zip(titles or (), paragraphs or (), strict=False))
    if not gold or not set(gold) <= sentences.keys():
        return None
    return "\n".join(f"{title}: {''.join(sentences[title]).strip()}" for title in sorted(set(gold)))


def topiocqa(
    path: str | Path = TOPIOCQA, *, cache: Path, revision: str | None = None, on_bad: OnBad = "refuse"
) -> RetrievalDataset:
    """TopiOCQA: a whole conversation up to its last question -> the gold passage.

    The query is every question and answer so far and the current question, a line each, oldest first. It is
    kept whole: the encoder cuts it, from the left (see the recipe's settings). Columns Conversation_no,
    Turn_no, Question, Context, Gold_passage.title, Gold_passage.text. Ours: the public validation split is
    test, and 10 % of the conversations of train, by hash, are dev; turns of one conversation stay together.
    """
    tables = _train_and_public(path, load_splits(path, cache, revision=revision))
    return assemble("topiocqa", path, _topiocqa_rows(path, tables), on_bad)


def _topiocqa_rows(path: str | Path, tables: Mapping[str, Any]) -> Iterator[Row]:
    columns = ("Conversation_no", "Turn_no", "Question", "Context", "Gold_passage.title", "Gold_passage.text")
    for source, table in tables.items():
        rows = rows_of(table, columns, f"{path}: split {source!r}")
        for number, (conversation, turn, question, history, title, passage) in enumerate(rows):
            query = "\n".join([*(history or ()), question]) if isinstance(question, str) else question
            id = f"{source}-{conversation}-{turn}"
            yield Row(
                _dev_or_test(source, str(conversation)),
                source,
                number,
                query,
                passage,
                title or "",
                query_id=id,
            )


def repliqa(
    path: str | Path = REPLIQA, *, cache: Path, revision: str | None = None, on_bad: OnBad = "refuse"
) -> RetrievalDataset:
    """RepLiQA: question -> the long answer, a paragraph of a document about made-up people and places.

    repliqa_0 to repliqa_3 are train, 400 documents of repliqa_3 dev (which 400 is ours: the lowest by SHA-256
    of their id), repliqa_4 test. About 20 % of the questions have no answer; they are dropped and counted in
    `skipped`. Columns document_id, question_id, question, answer, long_answer.
    """
    tables = load_splits(path, cache, names=[f"repliqa_{part}" for part in range(5)], revision=revision)
    dropped: Counter[str] = Counter()
    return assemble("repliqa", path, _repliqa_rows(path, tables, dropped), on_bad, dropped)


def _repliqa_rows(path: str | Path, tables: Mapping[str, Any], dropped: Counter[str]) -> Iterator[Row]:
    columns = ("document_id", "question_id", "question", "answer", "long_answer")
    documents = {str(id) for (id,) in rows_of(tables["repliqa_3"], ("document_id",), f"{path}: split 'repliqa_3'")}
    dev = set(sorted(documents, key=lambda id: sha256(id.encode()).digest())[:REPLIQA_DEV_DOCUMENTS])
    for source, table in tables.items():
        rows = rows_of(table, columns, f"{path}: split {source!r}")
        for number, (document, id, question, answer, passage) in enumerate(rows):
            if _no_answer(answer) or _no_answer(passage):
                dropped[f"{source}: question without an answer"] += 1
                continue
            held_out = source == "repliqa_3" and str(document) in dev
            split = "test" if source == "repliqa_4" else "dev" if held_out else "train"
            yield Row(split, source, number, question, passage, query_id=id)


def _no_answer(text: Any) -> bool:
    return isinstance(text, str) and text.strip(" .\n").upper() in NO_ANSWER


def _train_and_public(path: str | Path, tables: Mapping[str, Any]) -> dict[str, Any]:
    """Tables of the source's train and public validation split, by the source's names."""
    usual = usual_splits(path, tables)
    return {usual[split]: tables[usual[split]] for split in ("train", "dev") if split in usual}


def _dev_or_test(source: str, key: str) -> str:
    """Our split for a source whose public validation split is the test: dev is cut off train."""
    return by_hash(key, dev=0.1, test=0.0) if source == "train" else "test"


RECIPES = {
    "nq": Recipe("nq", NQ, nq),
    "hotpotqa": Recipe("hotpotqa", HOTPOTQA, hotpotqa, {"passage_max_length": 512}),
    "topiocqa": Recipe("topiocqa", TOPIOCQA, topiocqa, {"query_truncation": "left", "query_max_length": 512}),
    "repliqa": Recipe("repliqa", REPLIQA, repliqa),
}
