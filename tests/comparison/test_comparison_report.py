import json
from dataclasses import replace

import numpy as np
import pytest

from retreever.comparison.comparison_plots import plot_report
from retreever.comparison.comparison_report import ComparisonProtocol, ComparisonReport, ReportEntry
from retreever.evaluation.latency import Latency
from retreever.evaluation.metrics import METRICS

PROTOCOL = ComparisonProtocol("demo", "test", 2000, 1900, 100, "demo", 5000, "minilm", 600, 1024, [0, 1], "2 cores")


def entry(name, dims, code, size, ndcg, ms=1.0):
    spread = np.random.default_rng(int(100 * ndcg)).normal(0, 0.02, 100)
    spread -= spread.mean()
    return ReportEntry(name, dims, code, size, dict.fromkeys(METRICS, ndcg + spread), [ndcg], Latency(ms, 2 * ms))


@pytest.fixture
def report() -> ComparisonReport:
    entries = [
        entry("retreever", 16, "float32", 64, 0.30, 0.5),
        entry("retreever", 64, "float32", 256, 0.50),
        entry("retreever", 64, "int8", 64, 0.49),
        entry("frozen", None, "float32", 1536, 0.40, 3.0),
        entry("head", 16, "float32", 64, 0.25),
        entry("head", 64, "float32", 256, 0.55),
        entry("head", 64, "int8", 64, 0.54),
        entry("bm25", None, "float32", 60, 0.60, 2.0),
        entry("raptor", None, "layers", 1700, 0.20, 50.0),
    ]
    failed = {"bm25-seed0": "DataError: no words"}
    return ComparisonReport(PROTOCOL, "retreever", "tree+bm25", entries, Latency(5.0, 6.0), failed)


@pytest.fixture
def with_hybrids(report) -> ComparisonReport:
    hybrids = [
        entry("tree+bm25", 16, "float16 sum", 92, 0.61),
        entry("tree+bm25", 64, "float16 sum", 188, 0.75),
        entry("bm25+frozen", None, "float32 sum", 1596, 0.66, 4.0),
        entry("bm25+frozen", None, "float32 rrf", 1596, 0.65, 5.0),
        entry("bm25+head", 64, "float32 sum", 316, 0.76),
        entry("bm25+head", 64, "int8 sum", 124, 0.80),
    ]
    return replace(report, entries=[*report.entries, *hybrids])


def test_pairwise_comparisons_take_the_right_baseline(report):
    found = {(pair.question, pair.ours): pair for pair in report.pairwise_comparisons()}
    frozen = found["the encoder as it is", "retreever 64 float32"]
    assert frozen.theirs == "frozen float32" and frozen.ratio == pytest.approx(1.25) and frozen.faster == 3
    assert found["16 dimensions", "retreever 16 float32"].theirs == "head 16 float32"
    assert found["64 dimensions", "retreever 64 float32"].ratio == pytest.approx(0.5 / 0.55)
    assert found["64 bytes", "retreever 64 int8"].theirs == "head 64 int8"
    assert found["raptor", "retreever 16 float32"].faster == 100  # the fastest of those that rank better
    assert found["bm25", "retreever 64 float32"].ratio == pytest.approx(0.5 / 0.6)
    assert len(found) == 6


def test_a_ratio_lies_in_its_interval_and_a_clear_difference_is_significant(report):
    for pair in report.pairwise_comparisons():
        assert pair.low <= pair.ratio <= pair.high
        assert pair.p < 1e-6


def test_markdown_has_the_protocol_every_entry_and_what_failed(report):
    text = report.markdown()
    assert "1,900 of them distractors" in text and "600 steps of 1,024" in text and "2 cores" in text
    assert text.count("\n| retreever |") == 3 and "| raptor | - | layers | 1,700 |" in text
    assert "bm25-seed0 could not be judged: DataError: no words" in text


def test_hybrids_meet_hybrids_alone(report, with_hybrids):
    assert with_hybrids.pairwise_comparisons() == report.pairwise_comparisons()
    assert report.hybrid_comparisons() == []
    found = {pair.question: pair for pair in with_hybrids.hybrid_comparisons()}
    assert found.keys() == {"the best without training", "the tree alone", "64 dimensions"}
    untrained = found["the best without training"]
    assert (untrained.ours, untrained.theirs) == ("tree+bm25 64 float16 sum", "bm25+frozen float32 sum")
    assert untrained.ratio == pytest.approx(0.75 / 0.66) and untrained.faster == 4
    assert found["the tree alone"].ratio == pytest.approx(0.75 / 0.5)
    assert found["64 dimensions"].theirs == "bm25+head 64 float32 sum"


def test_hybrids_have_tables_of_their_own(report, with_hybrids):
    assert "Hybrids" not in report.markdown()
    single, _, hybrids = with_hybrids.markdown().partition("## Hybrids with BM25")
    assert "| tree+bm25 | 64 | float16 sum | 188 |" in hybrids and "+bm25 |" not in single
    assert "| bm25 | - | float32 | 60 | **0.600**" in single  # the best of the single ones
    assert "**0.800**" in hybrids and "| frozen |" not in hybrids


def test_saved_json_has_intervals_around_means(report, tmp_path):
    report.save(tmp_path)
    saved = json.loads((tmp_path / "report.json").read_text())
    first = saved["entries"][0]["metrics"]["ndcg_at_10"]
    assert first["interval"][0] < first["mean"] < first["interval"][1]
    assert saved["protocol"]["queries"] == 100 and len(saved["pairwise"]) == 6


def test_the_figure_is_drawn(with_hybrids, tmp_path):
    plot_report(with_hybrids, tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
