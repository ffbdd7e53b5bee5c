"""The demo corpus: docstrings of Python's standard library and of this project's own dependencies.

A query is the first paragraph of a docstring, its passage is the rest: real English, no download, some 20,000
pairs. Decides which names and which paragraphs count. Source files are parsed, never imported, so nothing
here runs foreign code; what comes out depends on the versions installed and on nothing else.
"""

import ast
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retreever.data.dataset import SPLITS, Passage, Query, RetrievalDataset, encodable
from retreever.data.dataset_splits import by_hash
from retreever.errors import DataError
from retreever.system.garbage_collection import collector_paused
from retreever.system.progress import Track, silent

PACKAGES = (
    "PIL", "aiohttp", "alembic", "anyio", "bm25s", "click", "datasets", "docker", "faiss", "fastapi",
    "flask", "fsspec", "httpx", "huggingface_hub", "jaxtyping", "jinja2", "joblib", "matplotlib", "mlflow",
    "networkx", "numba", "numpy", "optuna", "pandas", "pyarrow", "pydantic", "pygments", "pyparsing",
    "ranx", "ray", "requests", "rich", "safetensors", "scipy", "seaborn", "sklearn", "sqlalchemy",
    "starlette", "sympy", "tokenizers", "torch", "tqdm", "transformers", "typer", "werkzeug", "yaml",
)  # fmt: skip
NOT_DOCUMENTATION = frozenset((
    "conftest", "externals", "idlelib", "lib2to3", "test", "tests", "third_party", "thirdparty_files",
    "turtledemo", "vendor", "vendored",
))  # fmt: skip
QUERY_WORDS = 4
PASSAGE_WORDS = 20
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Source:
    """A module's file and its dotted name."""

    path: Path
    module: str


def build(track: Track = silent) -> RetrievalDataset:
    """Docstring pairs of everything public that is installed here: functions, classes and their methods.

    Ids are qualified names, the same for a query and its passage; `metadata["package"]` is the first part. A
    query has at least 4 words and a passage 20; white space is folded. Of equal queries, or equal passages,
    the first by id is kept. Splits are 80/10/10 by a hash of the id.
    """
    paths = sysconfig.get_paths()
    return build_from(sources([Path(paths["stdlib"])], [Path(paths["purelib"]), Path(paths["platlib"])]), track)


def build_from(found: Sequence[Source], track: Track = silent) -> RetrievalDataset:
    """Docstring pairs of the given modules, by the rules of `build`.

    Raises:
        DataError: not one pair.
    """
    pairs: dict[str, tuple[str, str]] = {}
    with collector_paused():  # syntax trees hold no cycles, and to walk them again and again is a third of the time
        for source in track(found, "reading docstrings", total=len(found)):
            for name, docstring in _docstrings(source):
                pair = split_docstring(docstring)
                if pair is not None:
                    pairs.setdefault(name, pair)
    kept = _without_duplicates(pairs)
    if not kept:
        raise DataError(f"docstrings: no pair in {len(found)} source files")
    rows = np.arange(len(kept))
    split_of = np.array([by_hash(name) for name in kept])
    table = np.stack([rows, rows, np.ones_like(rows)], axis=1).astype(np.int64)
    return RetrievalDataset(
        name="docstrings",
        corpus=tuple(Passage(name, rest, metadata=_metadata(name)) for name, (_, rest) in kept.items()),
        queries=tuple(Query(name, first, metadata=_metadata(name)) for name, (first, _) in kept.items()),
        qrels={split: table[split_of == split] for split in SPLITS},
    )


def sources(whole: Sequence[Path], named: Sequence[Path]) -> list[Source]:
    """Public modules: all in the folders `whole`, and those of PACKAGES in the folders `named`."""
    tops = [(folder, path) for folder in whole for path in sorted(folder.iterdir()) if _is_module(path)]
    for package in PACKAGES:
        places = [(folder, folder / name) for folder in named for name in (package, f"{package}.py")]
        tops += [place for place in places if _is_module(place[1])][:1]
    return [source for folder, top in tops for source in _modules(folder, top)]


def split_docstring(docstring: str) -> tuple[str, str] | None:
    r"""First paragraph and the rest, white space folded; None where one is too short or cannot be written as
    UTF-8.

    >>> split_docstring("Return the\nfirst free port.\n\n" + "word " * 20)[0]
    'Return the first free port.'
    """
    first, _, rest = docstring.partition("\n\n")
    first_words, rest_words = first.split(), rest.split()
    if len(first_words) < QUERY_WORDS or len(rest_words) < PASSAGE_WORDS:
        return None
    if "\0" in docstring or not encodable(docstring):
        return None
    return " ".join(first_words), " ".join(rest_words)


def _metadata(name: str) -> dict[str, str]:
    return {"package": name.partition(".")[0]}


def _is_module(path: Path) -> bool:
    return path.is_file() if path.suffix == ".py" else (path / "__init__.py").is_file()


def _modules(folder: Path, top: Path) -> Iterator[Source]:
    """Public modules at and below a top-level module, sorted by path."""
    for path in sorted(top.rglob("*.py")) if top.is_dir() else [top]:
        parts = path.relative_to(folder).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if all(map(_is_public, parts)) and not any(map(_is_test, parts)):
            yield Source(path, ".".join(parts))


def _is_public(name: str) -> bool:
    return name.isidentifier() and not name.startswith("_")


def _is_test(name: str) -> bool:
    """Whether a folder or module holds tests, or others' code kept for private use."""
    return name in NOT_DOCUMENTATION or name.startswith("test_")


def _docstrings(source: Source) -> Iterator[tuple[str, str]]:
    """Qualified name and cleaned docstring of every public definition; none where a file is not Python 3."""
    code = source.path.read_bytes()
    if b'"""' not in code and b"'''" not in code:  # no docstring of two paragraphs; parsing is what takes the time
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return
    yield from _definitions(tree.body, source.module)


def _definitions(body: Sequence[ast.stmt], prefix: str) -> Iterator[tuple[str, str]]:
    for node in body:
        if not isinstance(node, Definition) or not _is_public(node.name):
            continue
        name = f"{prefix}.{node.name}"
        docstring = ast.get_docstring(node)
        if docstring:
            yield name, docstring
        if isinstance(node, ast.ClassDef):
            yield from _definitions(node.body, name)


def _without_duplicates(pairs: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    queries: set[str] = set()
    passages: set[str] = set()
    kept: dict[str, tuple[str, str]] = {}
    for name, (query, passage) in sorted(pairs.items()):
        if query not in queries and passage not in passages:
            kept[name] = query, passage
            queries.add(query)
            passages.add(passage)
    return kept
