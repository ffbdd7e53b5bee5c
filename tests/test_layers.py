"""`import retreever` is light and has a public face; the departments are layers; the checks that say so can fail."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import retreever

HEAVY = ("torch", "ray", "mlflow", "transformers", "datasets", "matplotlib", "faiss", "sklearn", "numpy", "pandas")
ROOT = Path(retreever.__file__).parent


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_retreever_loads_nothing_heavy():
    assert loaded_after("import retreever") == set()


def test_the_public_face_is_loaded_when_it_is_used():
    assert {name: getattr(retreever, name).__module__ for name in retreever.__all__} == {
        "Config": "retreever.config",
        "Passage": "retreever.data.dataset",
        "Retreever": "retreever.bundle.retriever",
        "fit": "retreever.training.training_loop",
    }
    with pytest.raises(AttributeError, match="no attribute 'Retriever'"):
        _ = retreever.Retriever


@pytest.mark.parametrize("module", ["cli.main", "training.training_loop", "bundle.retriever", "comparison.judge"])
def test_the_library_loads_neither_ray_nor_mlflow(module):
    assert not loaded_after(f"import retreever.{module}") & {"ray", "mlflow"}


def test_the_check_can_fail():
    assert {"ray", "mlflow"} <= loaded_after("import retreever.sweeps.run_sweep")


def contracts() -> dict:
    settings = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    return {contract["name"]: contract for contract in settings["tool"]["importlinter"]["contracts"]}


def test_every_department_is_a_layer():
    layers = {part.strip() for line in contracts()["imports run downwards only"]["layers"] for part in line.split("|")}
    departments = {f"retreever.{path.parent.name}" for path in ROOT.glob("*/__init__.py")}
    modules = {f"retreever.{path.stem}" for path in ROOT.glob("*.py") if not path.stem.startswith("__")}
    assert layers == departments | modules | {"jobs", "serve"}


def test_an_upward_import_is_found(tmp_path):
    (tmp_path / "house").mkdir()
    for name, code in (("__init__", ""), ("below", "import house.above\n"), ("above", "")):
        (tmp_path / "house" / f"{name}.py").write_text(code)
    layers = "[tool.importlinter]\nroot_package = 'house'\n[[tool.importlinter.contracts]]\nname = 'layers'\n"
    (tmp_path / "pyproject.toml").write_text(f"{layers}type = 'layers'\nlayers = ['house.above', 'house.below']\n")
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1 and "house.below is not allowed to import house.above" in done.stdout


def test_a_folder_holds_at_most_twelve_modules():
    folders = {path.parent for path in ROOT.rglob("*.py")}
    many = {str(folder): len([p for p in folder.glob("*.py") if p.stem != "__init__"]) for folder in folders}
    assert {folder: count for folder, count in many.items() if count > 12} == {}


def test_no_public_name_means_two_things():
    """Functions, classes and constants of all modules; re-exports and __init__ files do not define."""
    homes: dict[str, list[str]] = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for name in defined_names(node):
                if not name.startswith("_") and name != "T":
                    homes.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


def defined_names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]
