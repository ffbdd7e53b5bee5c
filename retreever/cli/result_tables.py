"""How results look: the tables and lines that verbs and the demo share."""

from typing import TYPE_CHECKING, Any

from retreever.cli.console import Branch, Screen
from retreever.config import Config
from retreever.data.dataset import RetrievalDataset

if TYPE_CHECKING:  # they bring ray or mlflow, which most verbs do without
    from retreever.bundle.tree_view import TreeView
    from retreever.comparison.comparison_report import Report
    from retreever.comparison.verdict import Verdict
    from retreever.sweeps.cost_estimate import Estimate
    from retreever.sweeps.run_sweep import Event, SweepResult
    from retreever.sweeps.space_grammar import SearchSpace
    from retreever.tracking.run_catalog import Comparison, Run

METRICS = {"ndcg_at_10": "NDCG@10", "recall_at_10": "R@10", "recall_at_100": "R@100"}


def describe(dataset: RetrievalDataset) -> dict[str, Any]:
    """Sizes of a data set, and what was skipped."""
    sizes = {"passages": len(dataset.corpus), "queries": len(dataset.queries)}
    splits = {f"{split} pairs": len(dataset.pairs(split)) for split in dataset.qrels}
    return {
        "name": dataset.name,
        **sizes,
        **splits,
        **{f"skipped, {k}": v for k, v in dataset.skipped.items()},
    }


def show_best(screen: Screen, run: str, best: dict[str, float]) -> None:
    """Figures of a run's best validation, a line for each level."""
    prefix = "ndcg_at_10/level_"
    levels = sorted(int(name.removeprefix(prefix)) for name in best if name.startswith(prefix))
    rows = [(level, 2**level, *(best[f"{m}/level_{level:02d}"] for m in METRICS)) for level in levels]
    screen.table(f"best of run {run}, on dev", ["level", "dimensions", *METRICS.values()], rows)


def validation_line(figures: dict[str, float]) -> str:
    """A validation in one line: step, loss, dev NDCG@10 of every level."""
    prefix = "ndcg_at_10/level_"
    levels = " ".join(
        f"{2 ** int(n[len(prefix) :])}: {v:.3f}" for n, v in sorted(figures.items()) if n.startswith(prefix)
    )
    return f"  step {figures['step']:.0f}  loss {figures['loss']:.3f}  dev NDCG@10 by dimensions  {levels}"


def event_line(event: "Event") -> str:
    """A sweep's event in one line."""
    metric = "" if event.metric is None else f"dev NDCG@10 {event.metric:.4f}"
    return f"  [{event.ended}/{event.total}] {event.status:<8} {event.trial}  epoch {event.epoch}  {metric}"


def trial_rows(result: "SweepResult") -> list[dict[str, Any]]:
    """Every trial of a sweep as plain values, the best first."""
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
    """The table of all trials; then the Pareto front and the answer, where the space asks for them."""
    settings = list(dict.fromkeys(name for outcome in result.outcomes for name in outcome.varied))
    rows = [
        [
            *(_setting(o.varied, name) for name in settings),
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
    screen.table(f"trials of {result.folder.name}", columns, rows)
    if result.spent:
        screen.say(f"the budget of {result.space.budget.minutes:g} min is spent; the same command goes on")
    if result.front:
        objectives = result.space.objectives
        front = [[o.key, *(o.best[name] for name in objectives)] for o in result.front]
        screen.table("Pareto front", ["trial", *objectives], front)
    if result.answer:
        screen.say(result.answer)


def show_estimate(screen: Screen, space: "SearchSpace", needs: "Estimate | None") -> None:
    """What a sweep needs, in a line."""
    from retreever.sweeps.cost_estimate import spoken

    if needs is None:
        screen.say("the time is known when the data set is encoded: `retreever encode`")
        return
    at_most = "at most " if space.scheduler != "none" or space.search == "optuna" else ""
    screen.say(
        f"{needs.trials} trials of {needs.cpus} CPU{'s' if needs.cpus > 1 else ''}, {needs.slots} at a time on this "
        f"machine: {at_most}about {spoken(needs.wall)} ({spoken(needs.training)} of training)"
        + (f"; no trial starts after {space.budget.minutes:g} min" if space.budget.minutes else "")
    )


def _setting(varied: dict[str, Any], name: str) -> Any:
    """A trial's value of a setting; empty where a condition leaves it out."""
    return ("all" if varied[name] is None else varied[name]) if name in varied else ""


RUN_COLUMNS = ["id", "started", "name", "kind", "status", "data", "dev NDCG@10", "bytes"]


def run_row(run: "Run") -> list[Any]:
    """A run in a line of `RUN_COLUMNS`."""
    from retreever.tracking.run_catalog import figure, when

    tags, size = run.data.tags, run.data.metrics.get("bytes_per_document")
    kind, status = tags.get("kind", "train"), tags.get("status", run.info.status.lower())
    shown = [run.info.run_id[:8], when(run), run.info.run_name, kind, status, tags.get("data", "")]
    return [*shown, figure(run), None if size is None else int(size)]


def show_run(screen: Screen, known: dict[str, Any]) -> None:
    """A run as `runs.described` gives it."""
    default = Config().flat()
    changed = {k: v for k, v in known["params"].items() if v != str(default.get(k)).replace("None", "null")}
    seconds = None if known["seconds"] is None else f"{known['seconds']:.0f} s"
    head = {k: known[k] for k in ("run_id", "status", "started")} | {"took": seconds}
    tags = {k: short(v) for k, v in known["tags"].items() if k not in ("traceback", "reproduce", "answer")}
    screen.table(f"run {known['name']}", ["what", "value"], [*head.items(), *tags.items(), *changed.items()])
    best = {k.removeprefix("best/"): v for k, v in known["metrics"].items() if k.startswith("best/")}
    figures = best or known["metrics"]
    if any("/level_" in name for name in figures):
        show_best(screen, known["name"], figures)
    for name in ("error", "answer", "reproduce"):
        if name in known["tags"]:
            screen.say(f"{name}: {known['tags'][name]}")


def show_comparison(screen: Screen, found: "Comparison", names: list[str]) -> None:
    """Two runs level by level, and where their settings differ."""
    rows = [
        [2**d.level, d.a, d.b, d.a - d.b, f"[{d.low:+.4f}, {d.high:+.4f}]", f"{d.p:.2g}"] for d in found.differences
    ]
    columns = ["dimensions", *names, "difference", "95 % interval", "p"]
    screen.table(f"dev NDCG@10 on {found.queries:,} queries of both", columns, rows)
    screen.table("settings that differ", ["setting", *names], [[name, *pair] for name, pair in found.settings.items()])


def show_verdict(screen: Screen, verdict: "Verdict") -> None:
    """The table of a comparison under its protocol."""
    header, *rows = verdict.table()
    screen.table(f"{verdict.dataset}: {verdict.protocol}", header, rows)


def show_report(screen: Screen, report: "Report") -> None:
    """The duels of a full comparison, and where each representation stands."""
    for line in report.protocol.lines():
        screen.say(f"  {line}")
    rows = [(e.label, f"{e.bytes_per_document:,.0f}", e.mean(), e.latency and e.latency.median) for e in report.entries]
    screen.table(f"{report.protocol.dataset}", ["representation", "bytes", "NDCG@10", "ms"], rows)
    columns = ["question", "tree", "rival", "NDCG@10, tree / rival", "p", "tree is faster"]
    screen.table("tree against rivals", columns, [duel.cells() for duel in report.duels()])


def show_tree(screen: Screen, view: "TreeView", levels: int) -> None:
    """The upper nodes of a tree, by their words and sizes."""

    def branch(node: int) -> Branch:
        known = view.nodes[node]
        words = " ".join(known.words) or ("-" if node else "all passages")
        below = (
            [branch(child) for child in (2 * node + 1, 2 * node + 2)] if known.level < min(levels, view.depth) else []
        )
        return f"{words}  ({known.size:,.0f})", below

    screen.tree(branch(0))


def short(text: str, width: int = 90) -> str:
    """The beginning of a text, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
