import sysconfig
from pathlib import Path

import pytest

from retreever.data import docstrings
from retreever.data.docstrings import build_dataset_from_modules, find_source_modules, split_docstring
from retreever.errors import DataError

LONG = " ".join(f"word{number}" for number in range(20))
FIRST = "Count the words of"


def write(folder: Path, name: str, code: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")


def function(name: str, first: str, rest: str = LONG) -> str:
    return f'def {name}():\n    """{first}\n\n    {rest} {first}\n    """\n\n'


def names(folder: Path) -> list[str]:
    return [passage.id for passage in build_dataset_from_modules(find_source_modules([folder], [])).corpus]


def test_functions_classes_and_methods_are_taken_by_qualified_name(tmp_path: Path):
    code = function("top", f"{FIRST} a") + "async " + function("later", f"{FIRST} b")
    code += (
        f'class Tree:\n    """{FIRST} c\n\n    {LONG} c"""\n'
        + "    "
        + function("grow", f"{FIRST} d").replace("\n", "\n    ")
    )
    write(tmp_path, "forest.py", code)
    write(tmp_path, "wood/__init__.py", function("walk", f"{FIRST} e"))
    write(tmp_path, "wood/paths.py", function("go", f"{FIRST} f"))
    assert names(tmp_path) == [
        "forest.Tree", "forest.Tree.grow", "forest.later", "forest.top", "wood.paths.go", "wood.walk",
    ]  # fmt: skip


def test_private_names_tests_and_vendored_code_are_skipped(tmp_path: Path):
    hidden = [
        "_private.py",
        "wood/_inner.py",
        "wood/_deep/x.py",
        "wood/tests/x.py",
        "test_x.py",
        "conftest.py",
    ]
    hidden += ["wood/vendor/x.py", "idlelib/__init__.py", "two-words.py", "no_package/x.py"]
    for number, name in enumerate(hidden):
        write(tmp_path, name, function("hidden", f"{FIRST} {number}"))
    write(tmp_path, "wood/__init__.py", "")
    code = (
        function("_helper", f"{FIRST} a")
        + 'class _Base:\n    """x"""\n    '
        + function("method", f"{FIRST} b").replace("\n", "\n    ")
    )
    write(tmp_path, "seen.py", code + "\n" + function("seen", f"{FIRST} c"))
    assert names(tmp_path) == ["seen.seen"]


def test_query_is_the_first_paragraph_and_passage_the_rest():
    pair = split_docstring(f"Return the\nfirst   free port.\n\nArgs:\n    x: {LONG}\n\n>>> 1")
    assert pair == ("Return the first free port.", f"Args: x: {LONG} >>> 1")


@pytest.mark.parametrize(
    "docstring",
    [
        f"Only three words\n\n{LONG}",
        f"These are four words\n\n{LONG.rpartition(' ')[0]}",
        f"These are four words {LONG}",
        f"These are four words\n\n{LONG} \0",
        f"These are four words\n\n{LONG} \ud83c",
    ],
)
def test_short_or_invalid_docstrings_are_skipped(docstring: str):
    assert split_docstring(docstring) is None


def test_of_equal_queries_or_passages_the_first_by_id_is_kept(tmp_path: Path):
    same_passage = f'"""\n\n    {LONG}\n    """\n'
    write(tmp_path, "b.py", function("one", f"{FIRST} x") + function("two", f"{FIRST} x", f"other {LONG}"))
    write(tmp_path, "a.py", function("three", f"{FIRST} x", f"third {LONG}"))
    write(tmp_path, "c.py", "".join(f'def f{n}():\n    """{FIRST} {n}{same_passage[3:]}' for n in (2, 1)))
    assert names(tmp_path) == ["a.three", "c.f1"]


def test_files_that_are_not_python_3_are_skipped_without_a_warning(tmp_path: Path):
    write(tmp_path, "old.py", f'print "x"\n{function("f", FIRST + " a")}')
    (tmp_path / "binary.py").write_bytes(b'"""\0"""')
    (tmp_path / "latin.py").write_bytes(b'"""\xff"""')
    write(tmp_path, "escapes.py", 'PATTERN = "\\d"\n' + function("f", f"{FIRST} b"))
    assert names(tmp_path) == ["escapes.f"]


def test_only_documented_packages_are_taken_from_site_packages(tmp_path: Path):
    write(tmp_path, "numpy/__init__.py", function("f", f"{FIRST} a"))
    write(tmp_path, "stranger/__init__.py", function("f", f"{FIRST} b"))
    found = find_source_modules([], [tmp_path, tmp_path])
    assert [source.module for source in found] == ["numpy"]


def test_nothing_found_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="no pair in 0 source files"):
        build_dataset_from_modules(find_source_modules([tmp_path], []))


def test_a_part_of_the_standard_library(tmp_path: Path):
    found = [
        s for s in find_source_modules([Path(sysconfig.get_paths()["stdlib"])], []) if s.module.startswith(("a", "t"))
    ]
    dataset = build_dataset_from_modules(found)
    assert {"argparse", "asyncio"} <= {p.metadata["package"] for p in dataset.corpus}
    assert len(dataset.corpus) > 100
    assert [q.id for q in dataset.queries] == [p.id for p in dataset.corpus] == sorted(p.id for p in dataset.corpus)
    assert min(len(q.text.split()) for q in dataset.queries) >= docstrings.MIN_QUERY_WORDS
    assert min(len(p.text.split()) for p in dataset.corpus) >= docstrings.MIN_PASSAGE_WORDS
    assert sum(map(len, dataset.qrels.values())) == len(dataset.corpus)
    assert all((rows[:, 0] == rows[:, 1]).all() for rows in dataset.qrels.values())
    assert dataset.digest == build_dataset_from_modules(list(reversed(found))).digest
