"""The service's metrics, kept by Ray: a node's metrics agent has them for Prometheus, beside those of Ray Serve."""

import asyncio
import functools

import httpx
import ray
from ray.exceptions import RayError
from ray.util.metrics import Counter, Gauge, Histogram

from retreever.service.contract import SearchAnswer
from retreever.service.refusal import RefusalError

LATENCY_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
BATCH_BUCKETS = [1, 2, 4, 8, 16, 32, 64]
SHARE_BUCKETS = [n / 10 for n in range(1, 11)]
SHOWN_PREFIXES = ("ray_retreever_", "ray_serve_")  # of the metrics that an agent has, those of the service


class ServiceMetrics:
    """The metrics of one replica. Ray adds its own labels, e.g. `WorkerId`, and sends them every ten seconds."""

    def __init__(self) -> None:
        self._requests = Counter("retreever_requests", "answers", ("path", "method", "status"))
        self._seconds = Histogram("retreever_request_seconds", "whole requests", LATENCY_BUCKETS, ("path",))
        self._stages = Histogram(
            "retreever_stage_seconds",
            "stages of a search: wait, encode, search",
            LATENCY_BUCKETS,
            ("stage", "level", "version"),
        )
        self._batches = Histogram("retreever_batch_texts", "queries searched together", BATCH_BUCKETS)
        self._waiting = Gauge("retreever_waiting_texts", "queries that wait for their turn")
        self._agreement = Histogram(
            "retreever_canary_agreement",
            "share of the canary's passages that the champion finds too",
            SHARE_BUCKETS,
            ("champion", "canary"),
        )

    def observe_request(self, path: str, method: str, status: int, seconds: float) -> None:
        """Count an answer, and time its request."""
        self._requests.inc(tags={"path": path, "method": method, "status": str(status)})
        self._seconds.observe(seconds, {"path": path})

    def observe_stages(self, answer: SearchAnswer) -> None:
        """Time the stages of a search."""
        for stage, seconds in answer.stages.items():
            self._stages.observe(seconds, {"stage": stage, "level": str(answer.level), "version": answer.version})

    def observe_batch(self, texts: int) -> None:
        """Count the queries of a batch."""
        self._batches.observe(texts)

    def set_waiting(self, texts: int) -> None:
        """Set how many queries wait."""
        self._waiting.set(texts)

    def observe_agreement(self, champion: str, canary: str, share: float) -> None:
        """Note the share of a canary's passages that the champion finds too."""
        self._agreement.observe(share, {"champion": champion, "canary": canary})


async def read_node_metrics() -> str:
    """Read the service's metrics of this node, in Prometheus' text format, from Ray's metrics agent.

    Raises:
        RefusalError: this process is not part of a Ray cluster, or the agent does not answer.
    """
    try:
        address = await asyncio.to_thread(_find_metrics_agent)
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            return select_metrics((await client.get(f"http://{address}/metrics")).text)
    except (httpx.HTTPError, RayError, ValueError) as error:
        raise RefusalError(503, f"there are no metrics: {error or repr(error)}", retry_after=5) from None


@functools.cache
def _find_metrics_agent() -> str:
    """Address of this node's metrics agent."""
    if not ray.is_initialized():
        raise ValueError("Ray keeps them, and this process is not part of a cluster")
    own = ray.get_runtime_context().get_node_id()
    (node,) = [node for node in ray.nodes() if node["NodeID"] == own]
    return f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"


def select_metrics(text: str) -> str:
    """Select the service's metrics from a text in Prometheus' format."""
    named = ((line, line.removeprefix("# HELP ").removeprefix("# TYPE ")) for line in text.splitlines())
    return "\n".join(line for line, name in named if name.startswith(SHOWN_PREFIXES)) + "\n"
