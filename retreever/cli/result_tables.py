"""Tables and lines in which the verbs and the demo print results.

Computes nothing: it formats what the departments return.
"""

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
    screen.print_table(f"best of run {run}, on dev", ["level", "dimensions", *TABLE_METRICS.values()], rows)


def format_validation(figures: dict[str, float]) -> str:
    """Format a validation in one line: step, loss, dev NDCG@10 of every level."""
    prefix = "ndcg_at_10/level_"
    levels = " ".join(
        f"{2 ** int(n[len(prefix) :])}: {v:.3f}" for n, v in sorted(figures.items()) if n.startswith(prefix)
    )
    return f"  step {figures['step']:.0f}  loss {figures['loss']:.3f}  dev NDCG@10 by dimensions  {levels}"


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
            "error": o.error,
        }
        for o in result.outcomes
    ]


def show_trials(screen: Screen, result: "SweepResult") -> None:
    """Print the table of all trials; then the Pareto front and the answer, where the search space defines them."""
    settings = list(dict.fromkeys(name for outcome in result.outcomes for name in outcome.varied))
    rows = [
        [
            *(_format_setting(o.varied, name) for name in settings),
            o.status,
            int(o.best.get("step", 0)),
            o.best.get("ndcg_at_10"),
            o.error or "",
        ]
        for o in result.outcomes
    ]
    columns = [
        *(name.rpartition(".")[2] for name in settings),
        "ended",
        "best step",
        "dev NDCG@10",
        "error",
    ]
    screen.print_table(f"trials of {result.folder.name}", columns, rows)
    if result.is_budget_spent:
        screen.say(
            f"the budget of {result.space.budget.minutes:g} min is spent; the same command runs the remaining trials"
        )
    if result.pareto_front:
        objectives = result.space.objectives
        front = [[o.key, *(o.best[name] for name in objectives)] for o in result.pareto_front]
        screen.print_table("Pareto front", ["trial", *objectives], front)
    if result.answer:
        screen.say(result.answer)


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


def show_tree(screen: Screen, view: "TreeView", levels: int) -> None:
    """Print the upper nodes of a tree, by their words and sizes."""

    def branch(node: int) -> Branch:
        known = view.nodes[node]
        words = " ".join(known.words) or ("-" if node else "all passages")
        below = (
            [branch(child) for child in (2 * node + 1, 2 * node + 2)] if known.level < min(levels, view.depth) else []
        )
        return f"{words}  ({known.size:,.0f})", below

    screen.print_tree(branch(0))


def shorten(text: str, width: int = 90) -> str:
    """Cut a text to its beginning, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
