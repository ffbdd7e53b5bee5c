"""The service under load, beside a plain FastAPI application with the same encoder and a flat index of faiss.

    python -m benchmarks.serve_load BUNDLE [--seconds 10] [--overload 60]

Prints the encoder's own speed; for both services, ours with one replica of each kind and with up to two, the median of
one client, the largest rate whose 99th percentile stays within 100 ms, and the speed of requests of 64 queries; then
for ours with up to two: three times the largest rate, a burst until a second replica is up and until it is gone again,
and half the rate while a version is swapped, rolled back, and while replicas are killed with signal 9.
The load comes from this process, so the services have what it leaves of the processors.
"""

import argparse
import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from retreever.system import environment
from retreever.system.workspace import Workspace

WITHIN_MS = 100
WARM_S = 10
GROWS_S = 40  # until there are as many replicas as there will be
PACE = 1.25  # from one rate that is tried to the next
QUERIES = [
    f"{verb} {thing}"
    for verb in ("read", "write", "sort", "merge", "plot", "parse", "split", "convert", "count", "find the last")
    for thing in (
        "a csv file",
        "rows of a table",
        "a date",
        "nested lists",
        "an image",
        "json lines",
        "a sparse matrix",
    )
]


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=10, help="that a rate is held")
    parser.add_argument("--overload", type=float, default=60, help="seconds of three times the rate")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Workspace.at(Path(folder))
        environment.prepare(place)
        print(f"{os.cpu_count()} processors, load before: {os.getloadavg()[0]:.1f}", flush=True)
        alone = _encoder(asked.bundle)
        with _plain(asked.bundle.resolve()) as url:
            print("\nplain FastAPI, one process, faiss flat")
            _capacity(url, asked.seconds)
            _bulk(url, alone)
        _ours(asked.bundle.resolve(), place, asked.seconds, asked.overload, alone)


def _encoder(bundle: Path) -> float:
    """Queries a second that the encoder reads by itself."""
    from retreever.encoding.encoder import Encoder
    from retreever.trained_tree import load_model

    encoder = Encoder.load(load_model(bundle)[1].encoder)
    single = statistics.median(_timed(encoder, QUERIES[i : i + 1]) for i in range(40))
    batch = statistics.median(_timed(encoder, QUERIES[:64]) for _ in range(10))
    print(f"encoder alone: one query {single * 1000:.1f} ms; batches of 64: {64 / batch:.0f} queries a second")
    return 64 / batch


def _timed(encoder, texts: list[str]) -> float:
    begun = time.perf_counter()
    encoder.pooled(texts, "query")
    return time.perf_counter() - begun


@contextmanager
def _plain(bundle: Path) -> Iterator[str]:
    port = _free_port()
    with subprocess.Popen([sys.executable, "-m", "benchmarks.plain_service", str(bundle), str(port)]) as process:
        try:
            _up(f"http://127.0.0.1:{port}/docs")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _up(url: str) -> None:
    for _ in range(1200):
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError(f"{url} does not answer")


def _capacity(url: str, seconds: float, warm_s: float = WARM_S) -> float:
    """The largest rate within the limit; prints the way there."""
    from benchmarks.open_loop import Load

    asyncio.run(Load(url, QUERIES).closed(16, 100_000, warm_s))
    closed = asyncio.run(Load(url, QUERIES).closed(16, 600, 20))
    print(f"  16 clients: {closed}", flush=True)
    rate, best, missed = max(closed.rate / 2, 5), 0.0, 0
    while missed < 2:  # one slow moment of a shared machine is no limit
        outcome = asyncio.run(Load(url, QUERIES).open(rate, seconds))
        kept = outcome.quantile(0.99) <= WITHIN_MS and outcome.statuses.keys() == {200}
        print(f"  offered {rate:.0f}: {outcome}{'' if kept else '  -- beyond the limit'}", flush=True)
        missed = 0 if kept else missed + 1
        best, rate = (max(best, outcome.rate), rate * PACE) if kept else (best, rate)
    print(f"  largest rate with p99 <= {WITHIN_MS} ms: {best:.0f} a second", flush=True)
    print("  one client: " + str(asyncio.run(Load(url, QUERIES).closed(1, 200, 10))), flush=True)
    return best


def _bulk(url: str, alone: float) -> None:
    """Requests of 64 queries, from two clients, when all replicas are up; prints queries a second."""
    from benchmarks.open_loop import Load

    asyncio.run(Load(url, QUERIES, together=64).closed(2, 10_000, 20))
    outcome = asyncio.run(Load(url, QUERIES, together=64).closed(2, 10_000, 10))
    rate = outcome.rate * 64
    print(f"  64 queries a request: {rate:.0f} queries a second, {rate / alone:.2f} of the encoder's", flush=True)


def _ours(bundle: Path, place: Workspace, seconds: float, overload: float, alone: float) -> None:
    from ray import serve

    from retreever.cluster.ray_runtime import cluster
    from retreever.service.app import start
    from retreever.service.settings import AppArguments
    from retreever.tracking.model_registry import register, rollback
    from retreever.tracking.tracker import Tracker

    tracker = Tracker.of(place)
    run = tracker.start(tracker.experiment(place), "load")
    register(bundle, run, tracker, notes={})
    settings = AppArguments(workspace=str(place.root), poll_s=0.5)
    with cluster(place, serving=True):
        url = start(settings, port=_free_port())
        print("\nours: proxy, ingress, and one replica each of retriever and encoder")
        alone_rate = _capacity(url, seconds)
        _bulk(url, alone)
        serve.shutdown()
    with cluster(place, serving=True):
        url = start(settings.model_copy(update={"max_replicas": 2}), port=_free_port())
        print("\nours: 1 to 2 replicas of the last two")
        capacity = max(_capacity(url, seconds, GROWS_S), alone_rate, 10)
        _bulk(url, alone)
        _settled(serve)
        _overload(url, 3 * capacity, overload)
        _settled(serve)
        _burst(url, serve, 3 * capacity)
        _settled(serve)
        with_second = lambda: register(bundle, run, tracker, notes={})  # noqa: E731
        _changing("a hot swap", url, capacity / 2, with_second, "models:/retreever/2")
        _changing("a rollback", url, capacity / 2, lambda: rollback(tracker), "models:/retreever/1")
        for kind in ("Encoder", "Retriever", "Ingress"):
            _killing(kind, url, capacity / 2)


def _settled(serve) -> float:
    """Wait until there is one replica of each again; seconds that it took."""
    begun = time.monotonic()
    while _replicas(serve) > 1 and time.monotonic() - begun < 120:
        time.sleep(0.2)
    return time.monotonic() - begun


def _replicas(serve) -> int:
    """The most running replicas of an encoder."""
    found = [1]
    for name, app in serve.status().applications.items():
        if name.startswith("retreever-"):
            found.append(app.deployments["Encoder"].replica_states.get("RUNNING", 0))
    return max(found)


def _overload(url: str, rate: float, seconds: float) -> None:
    from benchmarks.open_loop import Load

    before, replicas = _memory(), len(_processes("ServeReplica"))
    outcome = asyncio.run(Load(url, QUERIES).open(rate, seconds))
    print(f"\noverload, {rate:.0f} a second for {seconds:.0f} s: {outcome}")
    print(
        f"  memory of the service: {before:.0f} MiB before, {_memory():.0f} MiB after; "
        f"replicas of all kinds {replicas}, then {len(_processes('ServeReplica'))} {outcome.faults}",
        flush=True,
    )


def _memory() -> float:
    """MiB that the service's processes hold for themselves; what forks share counts for each."""
    encoding = [p for p in psutil.process_iter() if "retreever.service.encoder.fork_server" in _line(p)]
    return sum(p.memory_info().rss - p.memory_info().shared for p in _processes("") + encoding) / 2**20


def _processes(kind: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        line = _line(process)
        if line.startswith("ray::") and ("ServeReplica:" in line or "ProxyActor" in line) and kind in line:
            found.append(process)
    return found


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return ""


def _burst(url: str, serve, rate: float) -> None:
    from benchmarks.open_loop import Load

    async def play() -> tuple[float, object]:
        done = asyncio.Event()
        load = asyncio.create_task(Load(url, QUERIES).open(rate, 60, done))
        begun = time.monotonic()
        while await asyncio.to_thread(_replicas, serve) < 2 and time.monotonic() - begun < 45:
            await asyncio.sleep(0.2)
        took = time.monotonic() - begun
        await asyncio.sleep(3)
        done.set()
        return took, await load

    took, outcome = asyncio.run(play())
    print(f"\nburst of {rate:.0f} a second: a second replica after {took:.1f} s; {outcome} {outcome.faults}")

    async def back() -> tuple[float, object]:
        done = asyncio.Event()
        load = asyncio.create_task(Load(url, QUERIES).open(rate / 12, 120, done))
        seconds = await asyncio.to_thread(_settled, serve)
        await asyncio.sleep(2)
        done.set()
        return seconds, await load

    seconds, outcome = asyncio.run(back())
    print(f"  back to one {seconds:.1f} s after it, under a little load: {outcome} {outcome.faults}", flush=True)


def _changing(what: str, url: str, rate: float, change, version: str) -> None:
    from benchmarks.open_loop import Load

    async def play():
        done = asyncio.Event()
        load = asyncio.create_task(Load(url, QUERIES).open(rate, 180, done))
        await asyncio.sleep(3)
        begun = time.monotonic()
        await asyncio.to_thread(change)
        while (await asyncio.to_thread(httpx.get, f"{url}/v1/model", timeout=20)).json().get("version") != version:
            await asyncio.sleep(0.2)  # a busy service may refuse this question too
        took = time.monotonic() - begun
        await asyncio.sleep(12)  # the old one has ended
        done.set()
        return took, await load

    took, outcome = asyncio.run(play())
    print(f"\n{rate:.0f} a second during {what}, which took {took:.1f} s: {outcome}")
    print(f"  failed: {outcome.failed} {outcome.faults}; by version: {dict(outcome.versions)}", flush=True)


def _killing(kind: str, url: str, rate: float) -> None:
    from benchmarks.open_loop import Load

    async def play(retries: int):
        load = asyncio.create_task(Load(url, QUERIES, retries=retries).open(rate, 20))
        await asyncio.sleep(3)
        for process in _processes(f":{kind}"):
            process.send_signal(signal.SIGKILL)
        return await load

    outcome, patient = asyncio.run(play(0)), asyncio.run(play(15))
    print(
        f"\n{rate:.0f} a second while the only {kind} is killed: {outcome}; failed: {outcome.failed} {outcome.faults}"
    )
    print(f"  with clients that retry: {patient}; failed: {patient.failed}", flush=True)


if __name__ == "__main__":
    main()
