"""The message of a failed Ray Train run: one sentence with the line of code that raised."""

import re
import sysconfig

from ray.train.v2.api.exceptions import TrainingFailedError

LIBRARY_FOLDERS = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
RANK_SECTION = re.compile(r"^\[Rank ([\d,]+) Error Snippet\]:\n", re.MULTILINE)
TRACEBACK_LINE = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<where>\S+)', re.MULTILINE)


def explain_failure(error: TrainingFailedError) -> str:
    """Which worker failed first, why, and at which line, taken out of the exceptions that Ray wraps around it."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", None) or {}
    if not failures:
        cause = getattr(error, "controller_failure", error)
        return f"training failed: {_last_line(str(cause))}"
    rank, failure = min(failures.items(), key=lambda item: (_is_collateral(item[1]), item[0]))
    text = _extract_traceback(error, rank) or str(failure)
    places = list(TRACEBACK_LINE.finditer(text))
    ours = [place for place in places if not place["file"].startswith(LIBRARY_FOLDERS)] or places
    at = f" ({ours[-1]['file']}:{ours[-1]['line']} in {ours[-1]['where']})" if ours else ""
    return f"training failed on worker {rank}: {_last_line(text)}{at}"


def _extract_traceback(error: TrainingFailedError, rank: int) -> str:
    """The traceback of a worker, from the message of the whole error: the workers' own exceptions have none."""
    _, *parts = RANK_SECTION.split(str(error))
    for ranks, text in zip(parts[::2], parts[1::2], strict=True):
        if str(rank) in ranks.split(","):
            return text
    return ""


def _is_collateral(failure: Exception) -> bool:
    """Whether a worker failed only because another one left a collective operation."""
    text = _last_line(str(failure))
    return "Connection closed by peer" in text or "gloo" in text or "NCCL" in text


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "no reason given"
