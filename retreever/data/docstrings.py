"""The demo corpus: docstrings of Python's standard library and of this project's own dependencies.

A query is the first paragraph of a docstring, its passage is the rest: real English, no download, some 20,000
pairs. This module decides which names and which paragraphs count. It parses source files and never imports them, so it
runs no foreign code. Its result depends on the installed versions alone.
"""

import ast
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retreever.data.dataset import DATASET_SPLITS, Passage, Query, RetrievalDataset, is_valid_utf8
from retreever.data.dataset_splits import assign_split_by_hash
from retreever.errors import DataError
from retreever.system.garbage_collection import pause_garbage_collection
from retreever.system.progress import Track, track_silently

DOCUMENTED_PACKAGES = (
    "PIL", "aiohttp", "alembic", "anyio", "bm25s", "click", "datasets", "docker", "faiss", "fastapi",
    "flask", "fsspec", "httpx", "huggingface_hub", "jaxtyping", "jinja2", "joblib", "matplotlib", "mlflow",
    "networkx", "numba", "numpy", "optuna", "pandas", "pyarrow", "pydantic", "pygments", "pyparsing",
    "ranx", "ray", "requests", "rich", "safetensors", "scipy", "seaborn", "sklearn", "sqlalchemy",
    "starlette", "sympy", "tokenizers", "torch", "tqdm", "transformers", "typer", "werkzeug", "yaml",
)  # fmt: skip
EXCLUDED_MODULES = frozenset((
    "conftest", "externals", "idlelib", "lib2to3", "test", "tests", "third_party", "thirdparty_files",
    "turtledemo", "vendor", "vendored",
))  # fmt: skip
MIN_QUERY_WORDS = 4
MIN_PASSAGE_WORDS = 20
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class SourceModule:
    """A module's file and its dotted name."""

    path: Path
    module: str


def build_docstring_dataset(track: Track = track_silently) -> RetrievalDataset:
    """Docstring pairs of the standard library and of DOCUMENTED_PACKAGES: public functions, classes and methods.

    Ids are qualified names, the same for a query and its passage; `metadata["package"]` is the first part. A
    query has at least 4 words and a passage 20; white space is folded. Of equal queries, or equal passages,
    the first by id is kept. Splits are 80/10/10 by a hash of the id.
    """
    paths = sysconfig.get_paths()
    return build_dataset_from_modules(
        find_source_modules([Path(paths["stdlib"])], [Path(paths["purelib"]), Path(paths["platlib"])]), track
    )


def build_dataset_from_modules(modules: Sequence[SourceModule], track: Track = track_silently) -> RetrievalDataset:
    """Docstring pairs of the given modules, by the rules of `build_docstring_dataset`.

    Raises:
        DataError: the modules hold no pair.
    """
    pairs: dict[str, tuple[str, str]] = {}
    # Syntax trees hold no cycles; collecting them again and again takes a third of the time.
    with pause_garbage_collection():
        for source in track(modules, "reading docstrings", total=len(modules)):
            for name, docstring in _read_docstrings(source):
                pair = split_docstring(docstring)
                if pair is not None:
                    pairs.setdefault(name, pair)
    kept = _drop_duplicates(pairs)
    if not kept:
        raise DataError(f"docstrings: no pair in {len(modules)} source files")
    rows = np.arange(len(kept))
    split_of = np.array([assign_split_by_hash(name) for name in kept])
    table = np.stack([rows, rows, np.ones_like(rows)], axis=1).astype(np.int64)
    return RetrievalDataset(
        name="docstrings",
        corpus=tuple(Passage(name, rest, metadata=_package_metadata(name)) for name, (_, rest) in kept.items()),
        queries=tuple(Query(name, first, metadata=_package_metadata(name)) for name, (first, _) in kept.items()),
        qrels={split: table[split_of == split] for split in DATASET_SPLITS},
    )


def find_source_modules(library_folders: Sequence[Path], package_folders: Sequence[Path]) -> list[SourceModule]:
    """Public modules: all in `library_folders`, and those of DOCUMENTED_PACKAGES in `package_folders`."""
    tops = [(folder, path) for folder in library_folders for path in sorted(folder.iterdir()) if _is_module(path)]
    for package in DOCUMENTED_PACKAGES:
        places = [(folder, folder / name) for folder in package_folders for name in (package, f"{package}.py")]
        tops += [place for place in places if _is_module(place[1])][:1]
    return [source for folder, top in tops for source in _find_modules(folder, top)]


def split_docstring(docstring: str) -> tuple[str, str] | None:
    r"""First paragraph and the rest, white space folded; None where one is too short or not valid UTF-8.

    >>> split_docstring("Return the\nfirst free port.\n\n" + "word " * 20)[0]
    'Return the first free port.'
    """
    first, _, rest = docstring.partition("\n\n")
    first_words, rest_words = first.split(), rest.split()
    if len(first_words) < MIN_QUERY_WORDS or len(rest_words) < MIN_PASSAGE_WORDS:
        return None
    if "\0" in docstring or not is_valid_utf8(docstring):
        return None
    return " ".join(first_words), " ".join(rest_words)


def _package_metadata(name: str) -> dict[str, str]:
    return {"package": name.partition(".")[0]}


def _is_module(path: Path) -> bool:
    return path.is_file() if path.suffix == ".py" else (path / "__init__.py").is_file()


def _find_modules(folder: Path, top: Path) -> Iterator[SourceModule]:
    """Public modules of a top-level module or package, sorted by path."""
    for path in sorted(top.rglob("*.py")) if top.is_dir() else [top]:
        parts = path.relative_to(folder).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if all(map(_is_public, parts)) and not any(map(_is_test, parts)):
            yield SourceModule(path, ".".join(parts))


def _is_public(name: str) -> bool:
    return name.isidentifier() and not name.startswith("_")


def _is_test(name: str) -> bool:
    """Whether a folder or module holds tests or vendored code."""
    return name in EXCLUDED_MODULES or name.startswith("test_")


def _read_docstrings(source: SourceModule) -> Iterator[tuple[str, str]]:
    """Qualified name and cleaned docstring of every public definition; none where a file is not Python 3."""
    code = source.path.read_bytes()
    if b'"""' not in code and b"'''" not in code:  # no docstring of two paragraphs; parsing takes most of the time
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return
    yield from _walk_definitions(tree.body, source.module)


def _walk_definitions(body: Sequence[ast.stmt], prefix: str) -> Iterator[tuple[str, str]]:
    for node in body:
        if not isinstance(node, Definition) or not _is_public(node.name):
            continue
        name = f"{prefix}.{node.name}"
        docstring = ast.get_docstring(node)
        if docstring:
            yield name, docstring
        if isinstance(node, ast.ClassDef):
            yield from _walk_definitions(node.body, name)


def _drop_duplicates(pairs: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    queries: set[str] = set()
    passages: set[str] = set()
    kept: dict[str, tuple[str, str]] = {}
    for name, (query, passage) in sorted(pairs.items()):
        if query not in queries and passage not in passages:
            kept[name] = query, passage
            queries.add(query)
            passages.add(passage)
    return kept
