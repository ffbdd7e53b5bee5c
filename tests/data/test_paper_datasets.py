import json
from pathlib import Path
from typing import Any

import pytest

from retreever.config import EncoderConfig
from retreever.data.dataset_splits import assign_split_by_hash
from retreever.data.paper_datasets import PAPER_DATASETS, read_hotpotqa, read_nq, read_repliqa, read_topiocqa
from retreever.errors import DataError


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def texts(dataset: Any, split: str) -> list[tuple[str, str]]:
    return [(dataset.queries[q].text, dataset.corpus[p].full_text) for q, p in dataset.pairs(split)]


def test_nq(tmp_path: Path):
    rows = [{"query": f"question {n}", "answer": f"paragraph {n // 2}"} for n in range(60)]
    lines(tmp_path / "pair/train.jsonl", rows)
    dataset = read_nq(tmp_path, cache=tmp_path / "cache")
    assert dataset.name == "nq"
    assert (len(dataset.queries), len(dataset.corpus)) == (60, 30)
    assert all(assign_split_by_hash(query) == split for split in dataset.qrels for query, _ in texts(dataset, split))


def hotpot(id: str, question: str, gold: list[str]) -> dict[str, Any]:
    return {
        "id": id,
        "question": question,
        "answer": "yes",
        "type": "bridge",
        "level": "hard",
        "supporting_facts": {"title": gold, "sent_id": list(range(len(gold)))},
        "context": {
            "title": ["Ada", "Bus", "Cat"],
            "sentences": [["Ada wrote.", " She did."], ["A bus runs."], ["Cats sleep."]],
        },
    }


def test_hotpotqa_joins_the_two_gold_paragraphs(tmp_path: Path):
    lines(
        tmp_path / "distractor/train-00000.jsonl",
        [hotpot(f"t{n}", f"question {n}", ["Bus", "Cat"]) for n in range(40)],
    )
    lines(
        tmp_path / "distractor/validation-00000.jsonl",
        [hotpot("v0", "who?", ["Cat", "Ada", "Ada"]), hotpot("v1", "what?", ["Ada", "Cat"])],
    )
    dataset = read_hotpotqa(tmp_path, cache=tmp_path / "cache")
    both = "Ada: Ada wrote. She did.\nCat: Cats sleep."
    assert texts(dataset, "test") == [("who?", both), ("what?", both)]
    assert [p.text for p in dataset.corpus] == ["Bus: A bus runs.\nCat: Cats sleep.", both]
    assert {assign_split_by_hash(query, test=0.0) for query, _ in texts(dataset, "dev")} == {"dev"}
    assert len(dataset.qrels["train"]) + len(dataset.qrels["dev"]) == 40


def test_hotpotqa_without_a_gold_paragraph_is_a_bad_row(tmp_path: Path):
    lines(
        tmp_path / "validation.jsonl",
        [hotpot("v0", "who?", ["Ada", "Dog"]), hotpot("v1", "what?", ["Ada", "Cat"])],
    )
    with pytest.raises(DataError, match="split 'validation', row 0: passage is empty"):
        read_hotpotqa(tmp_path, cache=tmp_path / "cache")
    assert len(read_hotpotqa(tmp_path, cache=tmp_path / "cache", on_bad="skip").queries) == 1


def turn(conversation: int, number: int, history: list[str], additional: list[Any]) -> dict[str, Any]:
    return {
        "Conversation_no": conversation,
        "Turn_no": number,
        "Question": f"question {number} of {conversation}?",
        "Answer": "yes",
        "Topic": "Byzantium",
        "Topic_section": "History",
        "Rationale": "because",
        "is_nq": False,
        "Context": history,
        "Additional_answers": additional,
        "Gold_passage": {"id": f"wiki:{number}", "title": "Byzantium", "text": f"Passage {number}."},
    }


def test_a_topiocqa_query_holds_the_whole_history(tmp_path: Path):
    train = [turn(c, t, ["first?", "yes"] if t == 2 else [], []) for c in range(1, 41) for t in (1, 2)]
    lines(tmp_path / "data/topiocqa_train.jsonl", train)
    lines(
        tmp_path / "data/topiocqa_valid.jsonl",
        [turn(1, 2, ["first?", "no"], [{"Answer": "x", "Rationale": "y"}])],
    )
    dataset = read_topiocqa(tmp_path, cache=tmp_path / "cache")
    assert texts(dataset, "test") == [("first?\nno\nquestion 2 of 1?", "Byzantium Passage 2.")]
    assert len(dataset.corpus) == 2
    assert dataset.queries[0].id == "train-1-1"
    conversations = {split: {query.split()[-1] for query, _ in texts(dataset, split)} for split in ("train", "dev")}
    assert conversations["train"].isdisjoint(conversations["dev"])
    assert len(conversations["train"]) + len(conversations["dev"]) == 40


def reply(part: int, document: int, answer: str = "So.", long_answer: str | None = None) -> dict[str, Any]:
    name = f"{part}-{document}"
    return {
        "document_id": name,
        "document_topic": "Local News",
        "document_path": f"{name}.pdf",
        "document_extracted": "Much text.",
        "question_id": f"{name}-q1",
        "question": f"What of {name}?",
        "answer": answer,
        "long_answer": long_answer or f"It was so in {name}.",
    }


def write_repliqa(folder: Path) -> Path:
    for part in (0, 1, 2, 4):
        lines(
            folder / f"data/repliqa_{part}-00000-of-00001.jsonl",
            [reply(part, 0), reply(part, 1, "UNANSWERABLE", "NA")],
        )
    lines(folder / "data/repliqa_3-00000-of-00001.jsonl", [reply(3, n) for n in range(430)])
    return folder


def test_repliqa_holds_out_400_documents_and_omits_unanswered_questions(tmp_path: Path):
    dataset = read_repliqa(write_repliqa(tmp_path), cache=tmp_path / "cache")
    assert {split: len(rows) for split, rows in dataset.qrels.items()} == {"train": 33, "dev": 400, "test": 1}
    assert texts(dataset, "test") == [("What of 4-0?", "It was so in 4-0.")]
    assert all(query.startswith("What of 3-") for query, _ in texts(dataset, "dev"))
    assert dataset.skipped == {f"repliqa_{part}: question without an answer": 1 for part in (0, 1, 2, 4)}


@pytest.mark.parametrize("answer", ["NA", "na.", " N/A ", "Unanswerable"])
def test_all_spellings_of_no_answer_are_known(tmp_path: Path, answer: str):
    lines(write_repliqa(tmp_path) / "data/repliqa_4-00000-of-00001.jsonl", [reply(4, 0), reply(4, 1, answer)])
    dataset = read_repliqa(tmp_path, cache=tmp_path / "cache")
    assert dataset.skipped["repliqa_4: question without an answer"] == 1
    assert len(dataset.qrels["test"]) == 1


def test_repliqa_needs_all_of_its_parts(tmp_path: Path):
    (write_repliqa(tmp_path) / "data/repliqa_1-00000-of-00001.jsonl").unlink()
    with pytest.raises(DataError, match="no split 'repliqa_1'; there are: repliqa_0, repliqa_2, repliqa_3, repliqa_4"):
        read_repliqa(tmp_path, cache=tmp_path / "cache")


@pytest.mark.parametrize("dataset", PAPER_DATASETS.values(), ids=str)
def test_paper_datasets_have_their_name_and_valid_encoder_settings(dataset: Any):
    assert PAPER_DATASETS[dataset.name] is dataset
    EncoderConfig(**dataset.encoder)
