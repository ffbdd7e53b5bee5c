"""Fill the tables of docs/results.md and the README, and the plot, from the reports that `retreever compare` wrote.

    python -m benchmarks.results_page            from benchmarks/results/compare_*.json
    python -m benchmarks.results_page --check    write nothing; exit code 1 where a page is not up to date

A table stands between `<!-- table: NAME -->` and `<!-- end -->`: `headline`, `hybrids`, or the name of a data set. The
prose around the tables is written by hand. To take in a new report, copy its `report.json` to `benchmarks/results/` as
`compare_DATASET_MACHINE_DATE.json`; the newest of a data set counts.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from retreever.evaluation.training_plots import PALETTE, TEXT_COLOR, draw_figure
from retreever.system.files import read_json

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
README = ROOT / "README.md"
PLOT = ROOT / "docs" / "img" / "results.png"
RESULTS = ROOT / "benchmarks" / "results"
TABLE_PATTERN = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
TABLE_SIZES = (16, 64, 256, 1024)
SYSTEMS = {
    "retreever": "**retreever**",
    "matryoshka": "Matryoshka head, same pairs",
    "pca": "PCA",
    "truncated": "truncated encoder",
    "frozen": "frozen encoder",
    "bm25": "BM25, whole texts",
    "pq": "product quantiser",
    "hnsw": "HNSW",
    "ivf": "IVF",
    "opq": "product quantiser, rotated",
    "rabitq": "RaBitQ",
    "binary": "binary codes, re-scored",
    "static_words": "static word vectors",
    "sparse_codes": "sparse autoencoder codes",
}
HYBRID_SIDES = {
    "frozen": ("frozen encoder", "bm25+frozen"),
    "matryoshka": ("Matryoshka head", "bm25+head"),
    "retreever": ("**retreever**", "tree+bm25"),
}
"""By the system alone: what is fused with BM25, and the name of the hybrid."""
HEADLINE_SYSTEMS = ("bm25", "frozen", "matryoshka", "retreever")
Report = dict[str, Any]


def read_reports(folder: Path = RESULTS) -> dict[str, Report]:
    """The newest report of every data set, by the data set's name: trained ones first, then zero-shot ones."""
    newest = {path.name.split("_")[1]: path for path in sorted(folder.glob("compare_*.json"), key=_date)}
    reports = {name: read_json(path) for name, path in newest.items()}
    return dict(sorted(reports.items(), key=lambda item: (_is_zero_shot(item[1]), item[0])))


def _date(path: Path) -> str:
    return path.stem.rpartition("_")[2]


def _is_zero_shot(report: Report) -> bool:
    return bool(report["protocol"]["dataset"] != report["protocol"]["trained_on"])


def fill_page(page: str, reports: dict[str, Report]) -> str:
    """The page with every table made anew.

    Raises:
        KeyError: a table of a data set that has no report.
    """

    def fill(found: re.Match[str]) -> str:
        name = found[2]
        whole = {"headline": _headline_table, "hybrids": _hybrid_table}
        table = whole[name](reports) if name in whole else _dataset_table(reports[name])
        return f"{found[1]}{table}\n{found[3]}"

    return TABLE_PATTERN.sub(fill, page)


def _headline_table(reports: dict[str, Report]) -> str:
    rows = [["data set", *(SYSTEMS[name] for name in HEADLINE_SYSTEMS), "tree / frozen encoder"]]
    for name, report in reports.items():
        largest = [_largest(report, system) for system in HEADLINE_SYSTEMS]
        figures = [_ndcg(entry) if entry else None for entry in largest]
        highest = max(figure for figure in figures if figure is not None)
        cells = [_format_figure(figure, highest) for figure in figures]
        label = f"{name}, trained on {report['protocol']['trained_on']}" if _is_zero_shot(report) else name
        rows.append([label, *cells, _against_frozen(report)])
    return _format_table(rows, left=1)


def _hybrid_table(reports: dict[str, Report]) -> str:
    """Of every report with hybrids, a row a system: NDCG@10, bytes and milliseconds alone, then with BM25."""
    rows = [["data set", "system", "alone", "bytes", "ms", "with BM25", "bytes", "ms", "of the best untrained"]]
    for name, report in reports.items():
        pairs = {pair["question"]: pair for pair in report.get("hybrid_pairwise", ())}
        if "the best without training" not in pairs:
            continue
        best = pairs["the best without training"]
        share = f"{best['ratio']:.3f} [{best['low']:.3f}, {best['high']:.3f}]"
        rows.append([name, SYSTEMS["bm25"], *_measure(_largest(report, "bm25")), "", "", "", ""])
        for system, (label, hybrid) in HYBRID_SIDES.items():
            fused = [e for e in report["entries"] if e["name"] == hybrid and e["code"].endswith(" sum")]
            both = [e for e in fused if not e["code"].startswith("int8")]
            largest = max(both, key=lambda e: e["dimensions"] or 0, default=None)
            alone = _largest(report, system)
            if alone or largest:
                cells = [*_measure(alone), *_measure(largest), share if system == "retreever" else ""]
                rows.append(["", label, *cells])
    return _format_table(rows, left=2)


def _measure(entry: dict[str, Any] | None) -> list[str]:
    """NDCG@10, bytes and milliseconds."""
    if entry is None:
        return ["", "", ""]
    time = entry["latency_ms"]
    return [f"{_ndcg(entry):.3f}", f"{entry['bytes_per_document']:,.0f}", f"{time['median']:.1f}" if time else ""]


def _format_figure(figure: float | None, highest: float) -> str:
    """Three decimals, bold where nothing is higher; empty for a system that the report does not have."""
    if figure is None:
        return ""
    return f"**{figure:.3f}**" if figure == highest else f"{figure:.3f}"


def _largest(report: Report, system: str) -> dict[str, Any] | None:
    """A system's float32 form of most dimensions; None where the report does not have the system."""
    entries = [e for e in report["entries"] if e["name"] == system and e["code"] == "float32"]
    return max(entries, key=lambda e: e["dimensions"] or 0, default=None)


def _against_frozen(report: Report) -> str:
    (pair,) = [p for p in report["pairwise"] if p["question"] == "the encoder as it is"]
    return f"{pair['ratio']:.3f} [{pair['low']:.3f}, {pair['high']:.3f}]"


def _dataset_table(report: Report) -> str:
    """A row a system: NDCG@10 by dimensions, then all figures of its best form."""
    sizes = [f"{size:,}" for size in TABLE_SIZES]
    rows = [["system", *sizes, "best NDCG@10", "R@10", "R@100", "bytes", "form"]]
    for name, label in SYSTEMS.items():
        entries = [e for e in report["entries"] if e["name"] == name]
        if not entries:
            continue
        by_size = {e["dimensions"]: e for e in entries if e["code"] == "float32"}
        cells = [f"{_ndcg(by_size[size]):.3f}" if size in by_size else "" for size in TABLE_SIZES]
        best = max(entries, key=_ndcg)
        low, high = best["metrics"]["ndcg_at_10"]["interval"]
        recalls = [f"{best['metrics'][metric]['mean']:.3f}" for metric in ("recall_at_10", "recall_at_100")]
        rows.append([
            label, *cells, f"{_ndcg(best):.3f} [{low:.3f}, {high:.3f}]", *recalls,
            f"{best['bytes_per_document']:,.0f}", _form(best),
        ])  # fmt: skip
    return f"{_protocol(report)}\n\n{_format_table(rows, left=1)}"


def _ndcg(entry: dict[str, Any]) -> float:
    return float(entry["metrics"]["ndcg_at_10"]["mean"])


def _form(entry: dict[str, Any]) -> str:
    return entry["code"] if entry["dimensions"] is None else f"{entry['dimensions']:,} {entry['code']}"


def _protocol(report: Report) -> str:
    protocol = report["protocol"]
    seeds = len(protocol["seeds"])
    return (
        f"{protocol['split'].capitalize()} split: {protocol['queries']:,} queries, {protocol['passages']:,} passages. "
        f"Trained on {protocol['train_pairs']:,} pairs of {protocol['trained_on']}, {protocol['steps']} steps of "
        f"{protocol['batch_size']:,}, {seeds} seed{'s' if seeds > 1 else ''}. Machine: {protocol['machine']}."
    )


def _format_table(rows: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table; the first `left` columns are text, the others numbers."""
    rule = ["---"] * left + ["---:"] * (len(rows[0]) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def plot_headline(reports: dict[str, Report], path: Path) -> None:
    """NDCG@10 of four systems on every data set, with 95 % intervals."""
    title = "NDCG@10 on the test split, same frozen encoder"
    with draw_figure(path, 1, title, width=9.5) as (_, (ax,)):
        for i, system in enumerate(HEADLINE_SYSTEMS):
            found = [(place, _largest(report, system)) for place, report in enumerate(reports.values())]
            entries = [entry for _, entry in found if entry]
            means = [_ndcg(entry) for entry in entries]
            ends = [entry["metrics"]["ndcg_at_10"]["interval"] for entry in entries]
            errors = [[m - low for m, (low, _) in zip(means, ends, strict=True)],
                      [high - m for m, (_, high) in zip(means, ends, strict=True)]]  # fmt: skip
            places = [place + 0.2 * (i - 1.5) for place, entry in found if entry]
            color = PALETTE[1] if system == "retreever" else ("#BBBBBB", PALETTE[4], PALETTE[0])[i]
            ax.bar(places, means, 0.19, color=color, label=SYSTEMS[system].strip("*"), yerr=errors, ecolor=TEXT_COLOR)
        ax.set_xticks(range(len(reports)), [_label(name, report) for name, report in reports.items()])
        ax.grid(axis="x", visible=False)
        ax.legend(frameon=False, ncols=len(HEADLINE_SYSTEMS), loc="upper left", fontsize=9)
        ax.set_ylim(0, 1.1)


def _label(name: str, report: Report) -> str:
    return f"{name}\n(zero-shot)" if _is_zero_shot(report) else name


def main(
    check: Annotated[bool, typer.Option("--check", help="write nothing; exit code 1 where it differs")] = False,
) -> None:
    """Fill the tables of docs/results.md from benchmarks/results/compare_*.json."""
    reports = read_reports()
    texts = {path: path.read_text(encoding="utf-8") for path in (PAGE, README)}
    filled = {path: fill_page(text, reports) for path, text in texts.items()}
    if check:
        raise typer.Exit(int(filled != texts))
    for path, text in filled.items():
        path.write_text(text, encoding="utf-8")
    plot_headline(reports, PLOT)
    print(f"{len(reports)} data sets: {', '.join(reports)}")


if __name__ == "__main__":
    typer.run(main)
