"""The index against a sort of all similarities; the calls it refuses; its files."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retreever.errors import BundleError
from retreever.index import Layout, LexicalSettings, TreeIndex
from retreever.model.tree import Tree
from retreever.system.files import read_json, write_json
from tests.support.nodes import draw_clustered, draw_nodes

DEPTH = 4
SIMILARITIES = ("ntvd", "bhattacharyya")


def make_ids(rows):
    return [f"d{i}" for i in range(rows)]


def make_layout(similarity="ntvd", dtype="float32", depth=DEPTH):
    return Layout(depth, similarity, True, "a" * 64, dtype)


def compute_similarities(queries, passages, similarity, level):
    """Every similarity at a level, in float64."""
    a, b = (side[:, Tree(DEPTH).level(level)].astype(np.float64) for side in (queries, passages))
    return np.minimum(a[:, None], b).sum(2) - 1 if similarity == "ntvd" else np.sqrt(a) @ np.sqrt(b).T


@pytest.mark.parametrize("level", [1, 2, 3, 4, None])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_search_is_a_sort_of_all_similarities(similarity, level):
    passages, queries = draw_nodes(200), draw_nodes(20, seed=1)
    index = TreeIndex.build([passages], make_ids(200), make_layout(similarity))
    rows, scores = index.search(queries, 7, level)
    every = compute_similarities(queries, passages, similarity, level or DEPTH)
    # Scores, not rows: at level 1 many passages differ by less than float32 tells apart.
    np.testing.assert_allclose(scores, -np.sort(-every, axis=1)[:, :7], atol=1e-6)
    np.testing.assert_allclose(scores, np.take_along_axis(every, rows, axis=1), atol=1e-6)
    assert all(len(set(row)) == 7 for row in rows.tolist())
    assert rows.dtype == np.int64 and scores.dtype == np.float32


@settings(deadline=None, max_examples=40)
@given(
    which=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    k=st.integers(1, 70),
    similarity=st.sampled_from(SIMILARITIES),
    dtype=st.sampled_from(["float32", "float16"]),
    seed=st.integers(0, 99),
)
def test_equal_passages_are_ordered_by_id_whatever_their_rows(which, k, similarity, dtype, seed):
    distinct, query = draw_nodes(4), draw_nodes(1, seed=7)
    ids = [f"d{i}" for i in np.random.default_rng(seed).permutation(len(which))]
    index = TreeIndex.build([distinct[which]], ids, make_layout(similarity, dtype))
    best = TreeIndex.build([distinct], list("0123"), make_layout(similarity, dtype)).search(query, 4)[0][0].tolist()
    expected = sorted(range(len(which)), key=lambda row: (best.index(which[row]), ids[row]))[:k]
    assert index.search(query, k)[0][0].tolist() == expected


@pytest.mark.parametrize("sizes", [[30], [1] * 30, [7, 0, 23]])
def test_chunks_do_not_matter(sizes):
    passages = draw_nodes(30)
    chunks = np.split(passages, np.cumsum(sizes)[:-1])
    found = TreeIndex.build(iter(chunks), make_ids(30), make_layout()).search(draw_nodes(3, seed=1), 5)
    expected = TreeIndex.build([passages], make_ids(30), make_layout()).search(draw_nodes(3, seed=1), 5)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_passage_finds_itself_first_at_every_level(similarity):
    passages = draw_nodes(50)
    index = TreeIndex.build([passages], make_ids(50), make_layout(similarity))
    for level in range(1, DEPTH + 1):
        rows, scores = index.search(passages, 1, level)
        top = 0 if similarity == "ntvd" else 1
        np.testing.assert_allclose(scores[:, 0], top, atol=1e-6)
        if level == DEPTH:
            assert rows[:, 0].tolist() == list(range(50))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_half_precision_ranks_by_nearly_the_same_scores(similarity):
    passages, queries = draw_nodes(100), draw_nodes(5, seed=1)
    whole = TreeIndex.build([passages], make_ids(100), make_layout(similarity)).search(queries, 10)[1]
    half = TreeIndex.build([passages], make_ids(100), make_layout(similarity, "float16")).search(queries, 10)[1]
    np.testing.assert_allclose(half, whole, atol=1e-3)


def test_a_k_above_the_number_of_passages_returns_all():
    rows, _ = TreeIndex.build([draw_nodes(6)], make_ids(6), make_layout()).search(draw_nodes(2, seed=1), 100)
    assert [sorted(row) for row in rows.tolist()] == [list(range(6))] * 2


def test_no_query_gets_no_answer():
    rows, scores = TreeIndex.build([draw_nodes(6)], make_ids(6), make_layout()).search(draw_nodes(0), 3)
    assert rows.shape == scores.shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k: must be at least 1, got 0"),
        ({"k": 3, "level": 0}, r"level: must lie within \[1, 4\], got 0"),
        ({"k": 3, "level": 5}, r"level: must lie within \[1, 4\], got 5"),
    ],
)
def test_a_search_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TreeIndex.build([draw_nodes(6)], make_ids(6), make_layout()).search(draw_nodes(1), **arguments)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.5])
def test_a_number_that_is_no_probability_is_refused(value):
    bad = draw_nodes(3)
    bad[1, 9] = value
    index = TreeIndex.build([draw_nodes(3)], make_ids(3), make_layout())
    with pytest.raises(ValueError, match=r"queries: probabilities must lie within \[0, 1\]"):
        index.search(bad, 1)
    with pytest.raises(ValueError, match=r"passages 3 to 5: probabilities must lie within \[0, 1\]"):
        TreeIndex.build([draw_nodes(3), bad], make_ids(6), make_layout())


def test_rows_of_another_tree_are_refused():
    index = TreeIndex.build([draw_nodes(3)], make_ids(3), make_layout())
    with pytest.raises(ValueError, match="queries: must be rows of 31 node probabilities"):
        index.search(draw_nodes(1, depth=5), 1)
    with pytest.raises(ValueError, match="must be rows of 31 node probabilities"):
        TreeIndex.build([draw_nodes(3, depth=3)], make_ids(3), make_layout())


@pytest.mark.parametrize("rows", [0, 4, 6])
def test_more_or_fewer_passages_than_ids_are_refused(rows):
    with pytest.raises(ValueError, match=f"ids: there are 5, the chunks hold( at least)? {rows} passages"):
        TreeIndex.build([draw_nodes(rows)], make_ids(5), make_layout())


def test_an_index_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one passage"):
        TreeIndex.build([], [], make_layout())


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_loaded_index_gives_the_answers_of_the_saved_one(tmp_path, similarity, dtype, mmap):
    index = TreeIndex.build([draw_nodes(40)], make_ids(40), make_layout(similarity, dtype))
    index.save(tmp_path / "index")
    loaded = TreeIndex.load(tmp_path / "index", "a" * 64, mmap)
    assert loaded.ids == index.ids and loaded.layout == index.layout and loaded.stats() == index.stats()
    for level in range(1, DEPTH + 1):
        pairs = zip(
            loaded.search(draw_nodes(4, seed=1), 9, level), index.search(draw_nodes(4, seed=1), 9, level), strict=True
        )
        assert all(np.array_equal(a, b) for a, b in pairs)


def test_statistics():
    index = TreeIndex.build([draw_clustered(3_000)], make_ids(3_000), make_layout("bhattacharyya", "float16", 7))
    stats = index.stats()
    assert stats["bytes_per_document_by_level"] == {d: 2 * 2**d for d in range(1, 8)}
    assert stats["documents"] == 3_000 and stats["depth"] == 7 and stats["deleted"] == 0
    assert stats["bytes_scanned_by_level"][7] in (32 + 4 + 2, 48 + 4 + 2, 64 + 4 + 2)  # digits, base, two lengths
    assert stats["bytes_scanned_by_level"][3] == 4 + 4 + 2
    assert 256 + 70 + 8 < stats["bytes_per_document"] < 800
    measured = stats["of_a_sample"][7]
    assert 0 < measured["left_by_second_bound"] <= measured["left_by_first_bound"] < 0.2
    assert measured["recall_of_estimates"] > 0.9


def test_an_index_of_another_model_is_refused_with_both_names(tmp_path):
    TreeIndex.build([draw_nodes(5)], make_ids(5), make_layout()).save(tmp_path / "index")
    with pytest.raises(BundleError, match=r"for model a{16}, not for model b{16}"):
        TreeIndex.load(tmp_path / "index", "b" * 64)


def find_file(folder, name):
    return next(folder.glob(f"segments/*/{name}"))


def _truncate(folder):
    file = find_file(folder, "level_04.npy")
    file.write_bytes(file.read_bytes()[:-1])


def _scramble(folder):
    file = find_file(folder, "level_04.npy")
    file.write_bytes(b"garbage" + file.read_bytes()[7:])


def _change_manifest(folder, **values):
    write_json(folder / "manifest.json", {**read_json(folder / "manifest.json"), **values})


def _reshape(folder):
    file = find_file(folder, "level_04.npy")
    np.save(file, np.load(file).reshape(-1, 8))
    manifest = read_json(file.parent / "manifest.json")
    manifest["files"]["level_04.npy"]["bytes"] = file.stat().st_size
    write_json(file.parent / "manifest.json", manifest)


def _remove_depth(folder):
    manifest = read_json(folder / "manifest.json")
    del manifest["depth"]
    write_json(folder / "manifest.json", manifest)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, r"manifest\.json: file is missing"),
        (lambda folder: find_file(folder, "level_04.npy").unlink(), r"level_04\.npy: file is missing"),
        (lambda folder: find_file(folder, "letters.npy").unlink(), r"letters\.npy: file is missing"),
        (lambda folder: shutil.rmtree(folder / "segments"), r"manifest\.json: file is missing"),
        (_truncate, r"level_04\.npy: \d+ bytes"),
        (_scramble, r"level_04\.npy: is no array of numbers"),
        (_reshape, r"level_04\.npy: holds \(10, 8\) of float32, the index says \(5, 16\)"),
        (
            lambda f: _change_manifest(f, dtype="float16"),
            r"level_04\.npy: holds \(5, 16\) of float32, the index says .* float16",
        ),
        (lambda folder: _change_manifest(folder, passages=[6]), "holds 5 passages, the index says 6"),
        (
            lambda folder: _change_manifest(folder, exact_hierarchy=False),
            r"holds levels \[4\] and codes \[\], the index has others",
        ),
        (lambda folder: _change_manifest(folder, format=99), "index format 99, this version reads 3"),
        (_remove_depth, r"manifest\.json: says nothing about depth"),
    ],
)
def test_damage_is_named(tmp_path, damage, message):
    TreeIndex.build([draw_nodes(5)], make_ids(5), make_layout()).save(tmp_path / "index")
    damage(tmp_path / "index")
    with pytest.raises(BundleError, match=message):
        TreeIndex.load(tmp_path / "index")


def test_checksums_reveal_a_changed_byte(tmp_path):
    TreeIndex.build([draw_clustered(2_500)], make_ids(2_500), make_layout("bhattacharyya", depth=7)).save(
        tmp_path / "index"
    )
    file = find_file(tmp_path / "index", "code_07_strips.npy")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    TreeIndex.load(tmp_path / "index")
    with pytest.raises(BundleError, match=r"code_07_strips\.npy: checksum differs"):
        TreeIndex.load(tmp_path / "index", checksums=True)


def test_a_pickle_is_not_opened(tmp_path):
    folder = tmp_path / "index"
    TreeIndex.build([draw_nodes(5)], make_ids(5), make_layout()).save(folder)
    file = find_file(folder, "level_04.npy")
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    write_json(file.parent / "manifest.json", {**read_json(file.parent / "manifest.json"), "files": {}})
    with pytest.raises(BundleError, match=r"level_04\.npy: is no array of numbers"):
        TreeIndex.load(folder)


COMPILED = """
import sys
from pathlib import Path
from retreever.index import Hybrid, TreeIndex
from retreever.index.kernels import digit_kernels, float16_kernels, posting_kernels, similarity_kernels, top_k_kernels
from tests.support.nodes import draw_nodes

def signatures():
    modules = (similarity_kernels, digit_kernels, float16_kernels, posting_kernels, top_k_kernels)
    return {n: f.signatures for m in modules for n, f in vars(m).items() if hasattr(f, "signatures")}

index = TreeIndex.load(Path(sys.argv[1]))
before = {name: list(known) for name, known in signatures().items()}
assert any(before.values())
for level in range(1, 8):
    index.search(draw_nodes(3, depth=7), 2, level)
    if index.has_words:
        index.search(draw_nodes(3, depth=7), 2, level, hybrid=Hybrid(["w1 w2", "w1", ""], 1.0))
assert before == signatures(), {n: s for n, s in signatures().items() if s != before[n]}
"""


@pytest.mark.parametrize("texts", [None, ["w1 w2"] * 3_000], ids=["nodes", "words"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_nothing_is_compiled_at_a_query(tmp_path, similarity, texts):
    form, settings = make_layout(similarity, "float16", depth=7), LexicalSettings(1.5, 0.75, None, None)
    passages, folder = draw_nodes(3_000, depth=7), tmp_path / "index"
    TreeIndex.build([passages], make_ids(3_000), form, folder, texts=texts, lexical=settings)
    done = subprocess.run([sys.executable, "-c", COMPILED, str(tmp_path / "index")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
