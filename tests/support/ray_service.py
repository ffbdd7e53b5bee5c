"""The whole service on Ray, in a process of its own: Ray reads its settings at its first import.

`python -m tests.support.ray_service WORKSPACE PORT SETTINGS` serves until its input ends.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

TOKEN = "secret"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class Service:
    """A running service.

    Attributes:
        process: its driver, whose children Ray's processes are.
    """

    url: str
    process: psutil.Process

    def replicas(self, kind):
        """The processes of a deployment's replicas."""
        found = []
        for process in self.process.children(recursive=True):
            with suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if line.startswith("ray::") and "ServeReplica:" in line and f":{kind}" in line:
                    found.append(process)
        return found

    def others(self, name):
        """Other processes of the service whose command holds this name."""
        found = []
        for process in self.process.children(recursive=True):
            with suppress(psutil.Error):
                if name in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def kill(self):
        """Kill all processes with signal 9."""
        everything = [self.process, *self.process.children(recursive=True)]
        for process in everything:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(everything, 30)


@contextmanager
def running(workspace, log, **settings):
    """Run a service with these settings; it ends with the block, or is killed if the block fails."""
    command = [sys.executable, "-m", __name__, str(workspace.root), str(free_port()), json.dumps(settings)]
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own["RAY_metrics_report_interval_ms"] = "500"
    own["RETREEVER_WRITE_TOKEN"] = TOKEN
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        open(log, "w") as errors,
        subprocess.Popen(command, stderr=errors, env=own, start_new_session=True, **pipes) as process,
    ):
        try:
            url = process.stdout.readline().strip()
            assert url, log.read_text()[-4000:]
            yield Service(url, psutil.Process(process.pid))
            process.stdin.close()
            assert process.wait(60) in (0, -signal.SIGKILL)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def main(root, port, settings):
    """Serve until the input ends."""
    from retreever.system import environment
    from retreever.system.workspace import Workspace

    workspace = Workspace.at(Path(root))
    environment.prepare_environment(workspace)
    from retreever.cluster.ray_runtime import join_cluster
    from retreever.service.run_service import run_service
    from retreever.service.settings import ServiceSettings

    arguments = ServiceSettings(**{"workspace": root, "threads": 1, "poll_s": 0.5, **json.loads(settings)})
    with join_cluster(workspace, cpus=2, serving=2), run_service(arguments, port=int(port)) as url:
        sys.stdout.write(url + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
