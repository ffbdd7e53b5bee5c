"""What a failed Ray Train run says to the person who started it: one sentence with the line of code that raised."""

import re
import sysconfig

from ray.train.v2.api.exceptions import TrainingFailedError

LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
SECTION = re.compile(r"^\[Rank ([\d,]+) Error Snippet\]:\n", re.MULTILINE)
PLACE = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<where>\S+)', re.MULTILINE)


def explain(error: TrainingFailedError) -> str:
    """Which worker failed first, where and of what, out of Ray's layers of wrapping."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", None) or {}
    if not failures:
        cause = getattr(error, "controller_failure", error)
        return f"training failed: {_last_line(str(cause))}"
    rank, failure = min(failures.items(), key=lambda item: (_is_collateral(item[1]), item[0]))
    text = _traceback(error, rank) or str(failure)
    places = list(PLACE.finditer(text))
    ours = [place for place in places if not place["file"].startswith(LIBRARIES)] or places
    at = f" ({ours[-1]['file']}:{ours[-1]['line']} in {ours[-1]['where']})" if ours else ""
    return f"training failed on worker {rank}: {_last_line(text)}{at}"


def _traceback(error: TrainingFailedError, rank: int) -> str:
    """What a worker's code raised, from the message of the whole: the exceptions beside it come without."""
    _, *parts = SECTION.split(str(error))
    for ranks, text in zip(parts[::2], parts[1::2], strict=True):
        if str(rank) in ranks.split(","):
            return text
    return ""


def _is_collateral(failure: Exception) -> bool:
    """A worker that was left alone in a collective operation by another one's failure."""
    text = _last_line(str(failure))
    return "Connection closed by peer" in text or "gloo" in text or "NCCL" in text


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "no reason given"
