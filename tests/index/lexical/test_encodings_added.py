"""Hybrid search with encodings against a sort of all sums of three parts."""

from dataclasses import replace

import numpy as np
import pytest

from retreever.errors import BundleError
from retreever.index import Hybrid, TreeIndex
from tests.index.lexical.sums import SETTINGS, AllSums, draw_texts, make_layout
from tests.index.test_certified_search import make_ids
from tests.support.nodes import draw_clustered, draw_nodes

DEPTH, ROWS = 6, 3_000


def draw_encodings(nodes, dim, seed=0):
    """Encodings of any length that go with the passages' leaves, as a tree's encodings do."""
    draw, turn = np.random.default_rng(seed), np.random.default_rng(5)
    leaves = nodes[:, nodes.shape[1] // 2 :]
    mixed = np.sqrt(leaves) @ turn.standard_normal((leaves.shape[1], dim)) + 0.3 * draw.standard_normal(
        (len(nodes), dim)
    )
    return (mixed * draw.uniform(0.5, 2, (len(nodes), 1))).astype(np.float32)


def build_index(similarity, dtype, dim, rows=ROWS, depth=DEPTH, folder=None, hierarchy=True):
    passages, ids = draw_clustered(rows, depth), make_ids(rows)
    texts, encodings = draw_texts(rows, nodes=passages), draw_encodings(passages, dim)
    layout = replace(make_layout(depth, similarity, dtype, hierarchy), encoding_dim=dim)
    index = TreeIndex.build([passages], ids, layout, folder, texts=texts, lexical=SETTINGS, encodings=encodings)
    return index, dict(zip(ids, texts, strict=True)), encodings


def assert_exact(index, texts, weight, share, level, **options):
    sums, queries = AllSums(index, texts), draw_clustered(3, index.layout.depth, seed=1)
    own, encodings = draw_texts(3, 9, queries), draw_encodings(queries, index.layout.encoding_dim, seed=2)
    hybrid = Hybrid(own, weight, encodings, share)
    numbers, scores = index.search(queries, 10, level, hybrid=hybrid, **options)
    for i in range(3):
        where = options.get("where")
        expected = sums.rank(queries[i], own[i], weight, 10, level, where, encodings[i], share)
        assert numbers[i].tolist() == expected[0] and np.array_equal(scores[i], expected[1])


@pytest.mark.parametrize("dim", [5, 100])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("similarity", ["ntvd", "bhattacharyya"])
def test_every_level_weight_and_filter_is_exact(similarity, dtype, dim):
    index, texts, _ = build_index(similarity, dtype, dim, hierarchy=dim == 5)
    some = np.random.default_rng(1).random(ROWS) < 0.05
    for weight, share in ((0.0, 1.0), (2.0, 0.6), (1.0, 50.0), (0.0, 1000.0), (2.0, 0.0)):
        for level in (2, DEPTH):
            assert_exact(index, texts, weight, share, level)
        assert_exact(index, texts, weight, share, DEPTH, where=some)


def test_the_scores_are_cosines_in_the_unit_of_similarities():
    index, _, encodings = build_index("bhattacharyya", "float32", 20)
    queries, side = draw_clustered(2, DEPTH, seed=1), index._state.lexical
    wanted = draw_encodings(queries, 20, seed=3)
    plain = index.search(queries, ROWS)
    found = index.search(queries, ROWS, hybrid=Hybrid(["", ""], 0.0, wanted, 2.0))
    for i in range(2):
        similarities = np.empty(ROWS)
        similarities[plain[0][i]] = plain[1][i]
        cosines = encodings @ wanted[i] / np.linalg.norm(encodings, axis=1) / np.linalg.norm(wanted[i])
        expected = similarities + 2 * cosines * side.deviations[DEPTH] / side.deviations[0]
        np.testing.assert_allclose(found[1][i], expected[found[0][i]], atol=1e-5)


@pytest.mark.parametrize("similarity", ["ntvd", "bhattacharyya"])
def test_changes_are_exact_and_last(tmp_path, similarity):
    build_index(similarity, "float16", 12, folder=tmp_path / "index")
    index, (_, texts, _) = TreeIndex.load(tmp_path / "index"), build_index(similarity, "float16", 12)
    for turn, count in enumerate((700, 3, 2_500)):
        new = draw_clustered(count, DEPTH, 10 + turn)
        own = dict(zip((f"t{turn}-{i}" for i in range(count)), draw_texts(count, turn, new), strict=True))
        index.add(new, list(own), texts=list(own.values()), encodings=draw_encodings(new, 12, turn))
        texts |= own
        index.delete(index.ids[: 800 * (turn + 1)])
        assert_exact(index, texts, 2.0, 1.0, DEPTH)
    again = TreeIndex.load(tmp_path / "index", checksums=True)
    assert again.layout.encoding_dim == 12 and again._state.lexical == index._state.lexical
    assert_exact(again, texts, 2.0, 1.0, 3)


def test_most_passages_are_left_out():
    index, _, _ = build_index("bhattacharyya", "float16", 40)
    queries = draw_clustered(5, DEPTH, seed=1)
    hybrid = Hybrid(draw_texts(5, 9, queries), 2.0, draw_encodings(queries, 40, seed=2), 0.6)
    _, scores, evidence = index.search(queries, 10, hybrid=hybrid, certify=True)
    for own, score in zip(evidence, scores, strict=True):
        assert own.bound <= own.kth == score[-1] and own.survived < ROWS / 2 and own.scored < ROWS / 10


def test_encodings_of_little_weight_leave_out_as_much_as_none():
    index, _, _ = build_index("bhattacharyya", "float16", 100)
    queries = draw_clustered(8, DEPTH, seed=1)
    encodings = draw_encodings(queries, 100, seed=2) + 5  # a mean far from zero, as encoders have
    survived = {
        share: sum(
            e.survived
            for e in index.search(queries, 10, hybrid=Hybrid([""] * 8, 0.0, encodings, share), certify=True)[2]
        )
        for share in (0.0, 0.01, 0.1)
    }
    assert survived[0.01] < 1.2 * survived[0.0] and survived[0.1] < 1.5 * survived[0.0]


def test_what_does_not_fit_is_refused():
    index, _, _ = build_index("ntvd", "float16", 5, rows=20)
    queries, texts = draw_nodes(2, DEPTH), ["a", "b"]
    bad = np.ones((2, 5))
    bad[1, 3] = np.nan
    for encodings, weight, message in [
        (np.ones((2, 4)), 1.0, r"hybrid.encodings: must be \(2, 5\) finite numbers, got \(2, 4\)"),
        (bad, 1.0, r"hybrid.encodings: must be \(2, 5\) finite numbers"),
        (np.ones((2, 5)), -1.0, r"hybrid.encoding_weight: must lie within \[0, 1000\], got -1.0"),
        (None, 1.0, r"hybrid.encoding_weight: needs encodings, got 1.0 without"),
    ]:
        with pytest.raises(ValueError, match=message):
            index.search(queries, 1, hybrid=Hybrid(texts, 1.0, encodings, weight))
    for encodings, got in ((None, "none"), (np.ones((1, 4)), r"\(1, 4\)")):
        with pytest.raises(ValueError, match=rf"encodings: .* width 5 and needs \(1, 5\), got {got}"):
            index.add(draw_nodes(1, DEPTH), ["new"], texts=["a"], encodings=encodings)
    words = TreeIndex.build([draw_nodes(3)], ["a", "b", "c"], make_layout(4, "ntvd"), texts=["w"] * 3, lexical=SETTINGS)
    with pytest.raises(ValueError, match=r"hybrid.encodings: this index keeps no encodings; build it anew with them"):
        words.search(draw_nodes(2), 1, hybrid=Hybrid(texts, 1.0, np.ones((2, 5)), 1.0))
    layout = replace(make_layout(4, "ntvd"), encoding_dim=5)
    with pytest.raises(ValueError, match="encodings: are kept beside texts, in an index that is not compact"):
        TreeIndex.build([draw_nodes(3)], ["a", "b", "c"], layout, encodings=np.ones((3, 5)))


def test_missing_encodings_are_named(tmp_path):
    build_index("bhattacharyya", "float16", 12, folder=tmp_path / "index")
    next((tmp_path / "index").glob("segments/*/level_00.npy")).unlink()
    with pytest.raises(BundleError, match=r"level_00\.npy: file is missing"):
        TreeIndex.load(tmp_path / "index")


KINDS = [
    (s, d, h) for s in ("ntvd", "bhattacharyya") for d, h in (("float16", True), ("float32", True), ("float16", False))
]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_answer_of_ten_thousand_differs():
    """Random weights, levels and filters between adds and deletes; two thirds of the queries add no encodings."""
    draw, asked = np.random.default_rng(0), 0
    for similarity, dtype, hierarchy in KINDS:
        index, texts, _ = build_index(similarity, dtype, 12, hierarchy=hierarchy)
        for turn in range(4):
            index.delete(draw.choice(index.ids, int(draw.integers(1, 600)), replace=False).tolist())
            new = draw_clustered(int(draw.integers(1, 600)), DEPTH, seed=100 + turn)
            own = dict(
                zip((f"t{turn}-{i}" for i in range(len(new))), draw_texts(len(new), 100 + turn, new), strict=True)
            )
            index.add(new, list(own), texts=list(own.values()), encodings=draw_encodings(new, 12, turn))
            texts |= own
            sums, count = AllSums(index, texts), 10_000 // (4 * len(KINDS)) + 1
            queries = draw_clustered(count, DEPTH, 500 + turn)
            encodings = draw_encodings(queries, 12, turn)
            wanted = draw_texts(count, 500 + turn, queries)
            for group in np.array_split(np.arange(count), 40):
                weight, level = (
                    float(draw.choice([0.0, *np.geomspace(0.01, 1000, 20)])),
                    int(draw.integers(1, DEPTH + 1)),
                )
                share = float(draw.choice([0.0, 0.0, draw.uniform(0.1, 10)]))
                where = draw.random(index.next_number) < draw.choice([0.02, 1.0])
                hybrid = Hybrid([wanted[row] for row in group], weight, encodings[group], share)
                numbers, scores = index.search(queries[group], 10, level, where=where, hybrid=hybrid)
                for row, found, score in zip(group, numbers, scores, strict=True):
                    parts = (wanted[row], weight, 10, level, where, encodings[row], share)
                    expected = sums.rank(queries[row], *parts)
                    assert found.tolist() == expected[0] and np.array_equal(score, expected[1])
                    asked += 1
    assert asked >= 10_000
