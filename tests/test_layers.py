"""`import retreever` is light, and the check that says so can fail."""

import subprocess
import sys

import pytest

HEAVY = ("ray", "mlflow", "transformers", "datasets", "matplotlib", "faiss", "sklearn", "ranx")


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_retreever_loads_nothing_heavy():
    assert loaded_after("import retreever") == set()


@pytest.mark.parametrize("module", ["cli.main", "training.training_loop", "bundle.retriever", "comparison.judge"])
def test_the_library_loads_neither_ray_nor_mlflow(module):
    assert not loaded_after(f"import retreever.{module}") & {"ray", "mlflow"}


def test_the_check_can_fail():
    assert {"ray", "mlflow"} <= loaded_after("import retreever.sweeps.run_sweep")
