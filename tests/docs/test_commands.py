"""Every command block of the quickstart and the guides runs as it is written, page by page, in an empty folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.docs.pages import RUN_PAGES, Block, read_blocks

URL = "http://127.0.0.1:8000"
START_S = 120

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


class Reader:
    """Somebody who types a page's blocks, one after another, into one shell."""

    def __init__(self, folder: Path):
        self.folder, self.service = folder, None
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RETREEVER_WORKSPACE": str(folder / "workspace"),
            "OMP_NUM_THREADS": "2",
        }

    def type(self, block: Block) -> None:
        if block.language == "python":
            self._check(subprocess.run([sys.executable, "-c", block.code], **self._options()), block)
        elif block.code.startswith("retreever serve"):
            self._serve(block)
        else:
            exported = self.folder / "environment"
            script = f"set -eu\n{block.code}\nenv -0 > '{exported}'\n"
            self._check(subprocess.run(["bash", "-c", script], **self._options()), block)
            pairs = exported.read_text().split("\0")
            self.environment = dict(pair.split("=", 1) for pair in pairs if "=" in pair)

    def _serve(self, block: Block) -> None:
        log = self.folder / "service.log"
        with log.open("w") as out:
            options = self._options() | {"stdout": out, "start_new_session": True}
            self.service = subprocess.Popen(["bash", "-c", f"exec {block.code}"], **options)
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            assert self.service.poll() is None, f"{block.code}\n{log.read_text()}"
            try:
                if httpx.get(f"{URL}/readyz", trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        raise AssertionError(f"{block.code}: no answer after {START_S} s")

    def leave(self) -> None:
        if self.service is not None:
            os.killpg(self.service.pid, signal.SIGINT)
            self.service.wait(60)

    def _options(self) -> dict:
        return {"cwd": self.folder, "env": self.environment, "text": True} | {
            "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT
        }  # fmt: skip

    def _check(self, done: subprocess.CompletedProcess, block: Block) -> None:
        assert done.returncode == 0, f"{block.code}\n{done.stdout[-3000:]}"


@pytest.mark.parametrize("page", RUN_PAGES, ids=lambda page: page.stem)
def test_every_block_runs(page, tmp_path):
    blocks = read_blocks(page)
    assert blocks
    reader = Reader(tmp_path)
    try:
        for block in blocks:
            if block.why_not is None:
                reader.type(block)
    finally:
        reader.leave()
