import json

import pytest

from retreever.comparison.verdict import METRIC_COLUMNS, Conditions, Verdict, VerdictRow


def metrics(value: float) -> dict[str, float]:
    return dict.fromkeys(METRIC_COLUMNS, value)


@pytest.fixture
def verdict() -> Verdict:
    rows = [
        VerdictRow("tree", 16, 64, metrics(0.2)),
        VerdictRow("tree", 64, 256, metrics(0.5)),
        VerdictRow("pca", 16, 64, metrics(0.3)),
        VerdictRow("bm25", None, 620.4, metrics(0.9)),
    ]
    return Verdict("demo", Conditions(2000, 100, "minilm", 600, 1024, 0), rows)


def test_table_has_a_line_a_row(verdict):
    header, *lines = verdict.table()
    assert header[-4:] == list(METRIC_COLUMNS.values())
    assert lines[1][:4] == ["tree", "64", "256", "0.500"]
    assert lines[3][:4] == ["bm25", "-", "620", "0.900"]


def test_markdown_carries_the_protocol_and_marks_the_best_of_a_size(verdict):
    text = verdict.markdown()
    assert "2,000 passages · 100 queries · encoder minilm" in text
    assert "| pca | 16 | 64 | **0.300** |" in text and "| tree | 16 | 64 | 0.200 |" in text
    assert "| bm25 | - | 620 | 0.900 |" in text  # no size, no baseline of that size
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_saved_json_is_by_name_and_size(verdict, tmp_path):
    verdict.save(tmp_path / "verdict.json")
    saved = json.loads((tmp_path / "verdict.json").read_text())
    assert saved["results"]["tree"]["64"] == {"bytes_per_document": 256, **metrics(0.5)}
    assert saved["results"]["bm25"]["full"]["ndcg_at_10"] == 0.9
    assert saved["protocol"]["passages"] == 2000 and saved["dataset"] == "demo"
