"""Tables and lines in which the verbs and the demo print results.

Computes nothing: it formats what the departments return.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from retreever.cli.console import Branch, Screen
from retreever.config import Config
from retreever.data.dataset import RetrievalDataset

if TYPE_CHECKING:  # they import ray or mlflow, which most verbs do not need
    from retreever.bundle.tree_view import TreeView
    from retreever.comparison.comparison_report import ComparisonReport
    from retreever.comparison.verdict import Verdict
    from retreever.sweeps.cost_estimate import Estimate
    from retreever.sweeps.run_sweep import SweepResult
    from retreever.sweeps.space_grammar import SearchSpace
    from retreever.sweeps.trial_outcome import SweepEvent
    from retreever.tracking.run_catalog import Run, RunComparison

TABLE_METRICS = {"ndcg_at_10": "NDCG@10", "recall_at_10": "R@10", "recall_at_100": "R@100"}
ROUTING_COLUMNS = {
    "ndcg_at_10": "NDCG@10",
    "effective_nodes": "effective nodes",
    "health/even_splits": "even splits",
    "health/largest_node_share": "largest node",
    "routing_agreement": "agreement",
}
"""Figures by level of how a tree routes, and their columns."""


def describe_dataset(dataset: RetrievalDataset) -> dict[str, Any]:
    """Count a data set's passages, queries and pairs, and the skipped lines."""
    sizes = {"passages": len(dataset.corpus), "queries": len(dataset.queries)}
    splits = {f"{split} pairs": len(dataset.pairs(split)) for split in dataset.qrels}
    return {
        "name": dataset.name,
        **sizes,
        **splits,
        **{f"skipped, {k}": v for k, v in dataset.skipped.items()},
    }


def show_best(screen: Screen, run: str, best: dict[str, float]) -> None:
    """Print the figures of a run's best validation, one line per level."""
    prefix = "ndcg_at_10/level_"
    levels = sorted(int(name.removeprefix(prefix)) for name in best if name.startswith(prefix))
    rows = [(level, 2**level, *(best[f"{m}/level_{level:02d}"] for m in TABLE_METRICS)) for level in levels]
    if rows:
        screen.print_table(f"best of run {run}, on dev", ["level", "dimensions", *TABLE_METRICS.values()], rows)
    else:
        screen.say(f"run {run} is not judged: its data set has no dev pairs")
    if "effective_nodes/level_01" in best:  # a run of an earlier version did not measure it
        _show_routing(screen, run, best)
    from retreever.training.guard_set import describe_guards  # it brings torch

    if guards := describe_guards(best):
        screen.say(f"guard sets, NDCG@10 on data that was not trained on: {guards}")


def _show_routing(screen: Screen, run: str, best: dict[str, float]) -> None:
    """Print how texts spread over the nodes, one line per level, and the failures that this shows."""
    from retreever.model.health import find_routing_failures

    levels = range(1, round(math.log2(best["health/leaves"])) + 1)
    rows = [[level, 2**level, *(best.get(f"{n}/level_{level:02d}") for n in ROUTING_COLUMNS)] for level in levels]
    judged_on = "dev" if "ndcg_at_10" in best else "passages"
    screen.print_table(f"routing of run {run}, on {judged_on}", ["level", "nodes", *ROUTING_COLUMNS.values()], rows)
    for failure in find_routing_failures(best):
        screen.say(f"warning: {failure}")


def format_validation(figures: dict[str, float]) -> str:
    """Format a validation in one line: step, loss, dev NDCG@10 of every level, the smallest ratio on guard sets.

    A tree that was not trained has no loss, and a data set without dev pairs no NDCG@10.
    """
    prefix = "ndcg_at_10/level_"
    levels = " ".join(
        f"{2 ** int(n[len(prefix) :])}: {v:.3f}" for n, v in sorted(figures.items()) if n.startswith(prefix)
    )
    guard = f"  of frozen {figures['guard_of_frozen']:.3f}" if "guard_of_frozen" in figures else ""
    loss = f"  loss {figures['loss']:.3f}" if "loss" in figures else ""
    judged = f"  dev NDCG@10 by dimensions  {levels}" if levels else "  not judged, there are no dev pairs"
    return f"  step {figures['step']:.0f}{loss}{judged}{guard}"


def format_event(event: "SweepEvent") -> str:
    """Format a sweep's event in one line."""
    metric = "" if event.metric is None else f"dev NDCG@10 {event.metric:.4f}"
    return f"  [{event.ended}/{event.total}] {event.status:<8} {event.trial}  epoch {event.epoch}  {metric}"


def list_trial_rows(result: "SweepResult") -> list[dict[str, Any]]:
    """List every trial of a sweep as plain values, the best first."""
    return [
        {
            **o.varied,
            "status": o.status,
            "run_id": o.run_id,
            "ndcg_at_10": o.best.get("ndcg_at_10"),
            **{name: o.best[name] for name in _list_trial_figures(result) if name in o.best},
            "error": o.error,
        }
        for o in result.outcomes
    ]


def show_trials(screen: Screen, result: "SweepResult") -> None:
    """Print the table of all trials; then the Pareto front and the answer, where the search space defines them."""
    settings = list(dict.fromkeys(name for outcome in result.outcomes for name in outcome.varied))
    others = _list_trial_figures(result)
    rows = [
        [
            *(_format_setting(o.varied, name) for name in settings),
            o.status,
            int(o.best.get("step", 0)),
            *(o.best.get(name) for name in ("ndcg_at_10", *others)),
            o.error or "",
        ]
        for o in result.outcomes
    ]
    columns = [
        *(name.rpartition(".")[2] for name in settings),
        "ended",
        "best step",
        "dev NDCG@10",
        *others.values(),
        "error",
    ]
    screen.print_table(f"trials of {result.folder.name}", columns, rows)
    if result.is_budget_spent:
        screen.say(
            f"the budget of {result.space.budget.minutes:g} min is spent; the same command runs the remaining trials"
        )
    if result.pareto_front:
        objectives = result.space.objectives
        front = [
            [*(_format_setting(o.varied, name) for name in settings), *(o.best[name] for name in objectives)]
            for o in result.pareto_front
        ]
        screen.print_table("Pareto front", [*(name.rpartition(".")[2] for name in settings), *objectives], front)
    if result.answer:
        screen.say(result.answer)


def _list_trial_figures(result: "SweepResult") -> dict[str, str]:
    """Figures of a trial's routing and guard sets, where a trial has them, and their columns."""
    columns = {
        "effective_nodes/level_06": "effective of 64",
        "routing_agreement/level_06": "agreement of 64",
        "guard_of_frozen": "of frozen",
    }
    return {name: column for name, column in columns.items() if any(name in o.best for o in result.outcomes)}


def show_estimate(screen: Screen, space: "SearchSpace", needs: "Estimate | None") -> None:
    """Print the trials, processors and time that a sweep needs, in one line."""
    from retreever.sweeps.cost_estimate import format_duration

    if needs is None:
        screen.say("no estimate before the data set is encoded: run `retreever encode` first")
        return
    at_most = "at most " if space.scheduler != "none" or space.search == "optuna" else ""
    screen.say(
        f"{needs.trials} trials of {needs.cpus} CPU{'s' if needs.cpus > 1 else ''}, {needs.slots} at a time on this "
        f"machine: {at_most}about {format_duration(needs.wall)} ({format_duration(needs.training)} of training)"
        + (f"; no trial starts after {space.budget.minutes:g} min" if space.budget.minutes else "")
    )


def _format_setting(varied: dict[str, Any], name: str) -> Any:
    """A trial's value of a setting; empty where a condition excludes the setting."""
    return ("all" if varied[name] is None else varied[name]) if name in varied else ""


RUN_COLUMNS = ["id", "started", "name", "kind", "status", "data", "dev NDCG@10", "bytes"]


def format_run_row(run: "Run") -> list[Any]:
    """Format a run as one row of `RUN_COLUMNS`."""
    from retreever.tracking.run_catalog import format_start_time, read_figure

    tags, size = run.data.tags, run.data.metrics.get("bytes_per_document")
    kind, status = tags.get("kind", "train"), tags.get("status", run.info.status.lower())
    shown = [run.info.run_id[:8], format_start_time(run), run.info.run_name, kind, status, tags.get("data", "")]
    return [*shown, read_figure(run), None if size is None else int(size)]


def show_run_details(screen: Screen, known: dict[str, Any]) -> None:
    """Print a run as `describe_run` of `run_catalog` returns it."""
    default = Config().flat()
    changed = {k: v for k, v in known["params"].items() if v != str(default.get(k)).replace("None", "null")}
    seconds = None if known["seconds"] is None else f"{known['seconds']:.0f} s"
    head = {k: known[k] for k in ("run_id", "status", "started")} | {"took": seconds}
    tags = {k: shorten(v) for k, v in known["tags"].items() if k not in ("traceback", "reproduce", "answer")}
    screen.print_table(f"run {known['name']}", ["what", "value"], [*head.items(), *tags.items(), *changed.items()])
    best = {k.removeprefix("best/"): v for k, v in known["metrics"].items() if k.startswith("best/")}
    figures = best or known["metrics"]
    if any("/level_" in name for name in figures):
        show_best(screen, known["name"], figures)
    for name in ("error", "answer", "reproduce"):
        if name in known["tags"]:
            screen.say(f"{name}: {known['tags'][name]}")


def show_run_comparison(screen: Screen, found: "RunComparison", names: list[str]) -> None:
    """Print two runs level by level, and the settings that differ."""
    rows = [
        [2**d.level, d.a, d.b, d.a - d.b, f"[{d.low:+.4f}, {d.high:+.4f}]", f"{d.p:.2g}"] for d in found.differences
    ]
    columns = ["dimensions", *names, "difference", "95 % interval", "p"]
    screen.print_table(f"dev NDCG@10 on {found.queries:,} queries of both", columns, rows)
    screen.print_table(
        "settings that differ", ["setting", *names], [[name, *pair] for name, pair in found.settings.items()]
    )


def show_verdict(screen: Screen, verdict: "Verdict") -> None:
    """Print the table of a quick comparison under its protocol."""
    header, *rows = verdict.table()
    screen.print_table(f"{verdict.dataset}: {verdict.protocol}", header, rows)


def show_comparison_report(screen: Screen, report: "ComparisonReport") -> None:
    """Print the protocol, every representation and the pairwise comparisons of a full comparison."""
    for line in report.protocol.lines():
        screen.say(f"  {line}")
    rows = [(e.label, f"{e.bytes_per_document:,.0f}", e.mean(), e.latency and e.latency.median) for e in report.entries]
    screen.print_table(f"{report.protocol.dataset}", ["representation", "bytes", "NDCG@10", "ms"], rows)
    from retreever.comparison.comparison_report import PAIRWISE_COLUMNS

    screen.print_table(
        "tree against baselines", PAIRWISE_COLUMNS, [pair.cells() for pair in report.pairwise_comparisons()]
    )
    hybrids = [pair.cells() for pair in report.hybrid_comparisons()]
    if hybrids:
        screen.print_table("tree with BM25 against hybrids", PAIRWISE_COLUMNS, hybrids)


def show_tree(screen: Screen, view: "TreeView", levels: int) -> None:
    """Print the upper nodes of a tree: number, name, words and size."""

    def branch(node: int) -> Branch:
        known = view.nodes[node]
        words = " ".join(known.words) or ("-" if node else "all passages")
        told = f"{known.name}: {words}" if known.name else words
        below = (
            [branch(child) for child in (2 * node + 1, 2 * node + 2)] if known.level < min(levels, view.depth) else []
        )
        return f"{node}  {told}  ({known.size:,.0f})", below

    screen.print_tree(branch(0))


def show_hits(screen: Screen, query: str, hits: Sequence[dict[str, Any]]) -> None:
    """Print the passages that a search found, each with id, relevance, score and text."""
    rows = [
        (None if hit["relevance"] is None else f"{hit['relevance']:.2f}", hit["score"], hit["id"], shorten(hit["text"]))
        for hit in hits
    ]
    screen.print_table(query, ["relevance", "score", "id", "text"], rows)


def shorten(text: str, width: int = 90) -> str:
    """Cut a text to its beginning, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
