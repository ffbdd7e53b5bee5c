"""Hybrid search against a sort of all sums of similarity and weighted BM25."""

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retreever.errors import BundleError
from retreever.index import Hybrid, Layout, TreeIndex
from retreever.index.segment import MIN_CODED_PASSAGES
from retreever.system.files import read_json, write_json
from tests.index.lexical.sums import SETTINGS, AllSums, draw_texts, make_layout
from tests.index.test_certified_search import make_ids
from tests.support.nodes import draw_clustered, draw_nodes

DEPTH, ROWS = 7, 3_000
WEIGHTS = (0.0, 0.3, 2.0, 50.0, 1000.0)


def build_index(layout, passages, texts, ids, folder=None):
    return TreeIndex.build([passages], ids, layout, folder, texts=texts, lexical=SETTINGS)


def assert_exact(index, sums, queries, texts, weight, k, level, **options):
    numbers, scores = index.search(queries, k, level, hybrid=Hybrid(texts, weight), **options)
    for found, score, query, text in zip(numbers, scores, queries, texts, strict=True):
        expected = sums.rank(query, text, weight, k, level, options.get("where"))
        assert found.tolist() == expected[0] and np.array_equal(score, expected[1])


@pytest.mark.parametrize("hierarchy", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("similarity", ["ntvd", "bhattacharyya"])
def test_every_level_weight_and_filter_is_exact(similarity, dtype, hierarchy):
    passages, ids = draw_clustered(ROWS, DEPTH), make_ids(ROWS)
    texts = draw_texts(ROWS, nodes=passages)
    index = build_index(make_layout(DEPTH, similarity, dtype, hierarchy), passages, texts, ids)
    sums = AllSums(index, dict(zip(ids, texts, strict=True)))
    queries = draw_clustered(2, DEPTH, seed=1)
    own = [f"{texts[7]} w1 w1 the", draw_texts(2, seed=9)[1]]
    some = np.random.default_rng(1).random(ROWS) < 0.05
    for i, weight in enumerate(WEIGHTS):
        for level in {1, 4 + i % 3, DEPTH}:
            assert_exact(index, sums, queries, own, weight, 10, level)
        assert_exact(index, sums, queries, own, weight, 10, DEPTH, where=some)


@settings(deadline=None, max_examples=12)
@given(
    changes=st.lists(st.tuples(st.booleans(), st.integers(1, 900)), min_size=1, max_size=6),
    similarity=st.sampled_from(["ntvd", "bhattacharyya"]),
    first=st.sampled_from([40, MIN_CODED_PASSAGES + 50]),
    seed=st.integers(0, 99),
)
def test_any_sequence_of_changes_is_exact(changes, similarity, first, seed):
    draw, passages = np.random.default_rng(seed), draw_clustered(first, 5, seed)
    texts = dict(zip(make_ids(first), draw_texts(first, seed, passages), strict=True))
    index = build_index(make_layout(5, similarity), passages, list(texts.values()), list(texts))
    for turn, (adds, count) in enumerate(changes):
        if adds:
            new = draw_clustered(count, 5, 1000 + turn)
            own = [f"{text} new{turn}" for text in draw_texts(count, 1000 + turn, new)]  # a word that no passage had
            ids = [f"t{turn}-{i}" for i in draw.permutation(count)]
            index.add(new, ids, texts=own)
            texts |= dict(zip(ids, own, strict=True))
        elif len(index) > 1:
            index.delete(draw.choice(index.ids, min(count, len(index) - 1), replace=False).tolist())
    queries = draw_clustered(2, 5, seed=5)
    own = [f"{draw_texts(1, seed + 7)[0]} new0", f"new1 {draw_texts(1, seed + 8, queries)[0]}"]
    sums = AllSums(index, texts)
    for weight, level in ((2.0, 5), (30.0, 2)):
        assert_exact(index, sums, queries, own, weight, 7, level)


def test_a_weight_of_zero_changes_nothing_to_the_bit():
    index = build_index(
        make_layout(DEPTH, "bhattacharyya"), draw_clustered(ROWS, DEPTH), draw_texts(ROWS), make_ids(ROWS)
    )
    queries = draw_clustered(5, DEPTH, seed=1)
    for one, other in zip(
        index.search(queries, 20), index.search(queries, 20, hybrid=Hybrid(draw_texts(5), 0)), strict=True
    ):
        assert np.array_equal(one, other)


def test_with_a_large_weight_it_ranks_as_bm25s_does():
    texts, ids = draw_texts(ROWS), [f"d{i:04d}" for i in range(ROWS)]
    index = build_index(make_layout(DEPTH, "bhattacharyya"), np.repeat(draw_nodes(1, DEPTH), ROWS, axis=0), texts, ids)
    retriever = bm25s.BM25(k1=SETTINGS.k1, b=SETTINGS.b, method="lucene")
    retriever.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    side = index._state.lexical
    for query in draw_texts(30, seed=3):
        tokens = bm25s.tokenize([query], return_ids=False, show_progress=False)[0]
        if not tokens:
            continue
        expected = retriever.get_scores(tokens)
        numbers, scores = index.search(draw_nodes(1, DEPTH), ROWS, hybrid=Hybrid([query], 100.0))
        added = (scores[0] - scores[0].min()) * side.rarest / (100 * side.deviations[DEPTH])
        expected = expected[numbers[0]]
        np.testing.assert_allclose(
            added + expected.min(), expected, atol=0.004 * sum(retriever.get_scores([t]).max() for t in tokens) + 0.02
        )


def test_queries_together_and_in_threads_answer_as_alone(monkeypatch):
    passages, texts = draw_clustered(ROWS, DEPTH), draw_texts(ROWS)
    index = build_index(make_layout(DEPTH, "bhattacharyya"), passages, texts, make_ids(ROWS))
    queries, own = draw_clustered(20, DEPTH, seed=1), draw_texts(20, seed=1)
    together = index.search(queries, 10, hybrid=Hybrid(own, 2.0), threads=1)
    monkeypatch.setattr("retreever.index.search.certified_search.MAX_ADDED_SCORES", 3 * ROWS)
    for threads in (1, 4):
        numbers, scores = index.search(queries, 10, hybrid=Hybrid(own, 2.0), threads=threads)
        assert np.array_equal(numbers, together[0]) and np.array_equal(scores, together[1])
    for i in (0, 7, 19):
        alone = index.search(queries[i : i + 1], 10, hybrid=Hybrid([own[i]], 2.0))
        assert np.array_equal(alone[0][0], together[0][i]) and np.array_equal(alone[1][0], together[1][i])


def test_the_evidence_holds():
    passages = draw_clustered(ROWS, DEPTH)
    index = build_index(make_layout(DEPTH, "bhattacharyya"), passages, draw_texts(ROWS, nodes=passages), make_ids(ROWS))
    queries = draw_clustered(6, DEPTH, seed=1)
    hybrid = Hybrid(draw_texts(6, 3, queries), 2.0)
    _, scores, evidence = index.search(queries, 10, hybrid=hybrid, certify=True)
    every = index.search(queries, ROWS, hybrid=hybrid)[1]
    for score, own, all_scores in zip(scores, evidence, every, strict=True):
        assert own.kth == score[-1] and own.bound <= own.kth and own.scored < ROWS / 2
        assert (all_scores[own.scored :] <= max(own.bound, own.kth)).all()


@pytest.mark.parametrize("similarity", ["ntvd", "bhattacharyya"])
def test_the_words_explain_the_score(similarity):
    passages = draw_clustered(ROWS, DEPTH)
    texts, ids = draw_texts(ROWS, nodes=passages), make_ids(ROWS)
    index = build_index(make_layout(DEPTH, similarity), passages, texts, ids)
    index.add(draw_clustered(3, DEPTH, 4), ["x", "y", "z"], texts=["unseen word", "unseen", "w1"])
    hybrid, queries = Hybrid([f"unseen {texts[5]} nobodysword", "w1"], 3.0), draw_clustered(2, DEPTH, seed=1)
    for level in (3, DEPTH):
        numbers, scores = index.search(queries, 50, level, hybrid=hybrid)
        plain = index.search(queries, len(index), level)
        sums = AllSums(index, dict(zip(ids, texts, strict=True)) | {"x": "unseen word", "y": "unseen", "z": "w1"})
        for i, explained in enumerate(index.explain_words(hybrid, numbers, level)):
            added = sums.add_words(hybrid.texts[i], 3.0, level)
            similarities = dict(zip(plain[0][i].tolist(), plain[1][i].tolist(), strict=True))
            for number, score, words in zip(numbers[i].tolist(), scores[i], explained, strict=True):
                row = sums.numbers.tolist().index(number)
                assert words == {word: float(own[row]) for word, own in added.items() if own[row]}
                assert score == pytest.approx(similarities[number] + sum(words.values()), abs=1e-5)


@pytest.mark.parametrize("similarity", ["ntvd", "bhattacharyya"])
def test_a_compact_index_adds_the_words_to_its_estimates(similarity):
    passages = draw_clustered(ROWS, DEPTH)
    texts, queries = draw_texts(ROWS, nodes=passages), draw_clustered(10, DEPTH, seed=1)
    layout = Layout(DEPTH, similarity, True, "a" * 64, "float16", compact=True)
    index = build_index(layout, passages, texts, make_ids(ROWS))
    whole = build_index(make_layout(DEPTH, similarity, "float16"), passages, texts, make_ids(ROWS))
    hybrid = Hybrid(draw_texts(10, 3, queries), 2.0)
    (near, estimates), (exact, scores) = (one.search(queries, 10, hybrid=hybrid) for one in (index, whole))
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near.tolist(), exact.tolist(), strict=True)]) > 0.85
    np.testing.assert_allclose(estimates, scores, atol=0.02)
    every = index.search(queries, ROWS, hybrid=hybrid)[1]
    np.testing.assert_allclose(estimates, every[:, :10], atol=1e-6)


def test_what_does_not_fit_is_refused():
    index = build_index(make_layout(4, "ntvd"), draw_nodes(5), ["a b"] * 5, make_ids(5))
    queries = draw_nodes(2)
    for hybrid, message in [
        (Hybrid(["one"], 1.0), "hybrid.texts: must be one for each of 2 queries, got 1"),
        (Hybrid("ab", 1.0), "hybrid.texts: must be a list of texts"),
        (Hybrid(["one", None], 1.0), "hybrid.texts: must be a list of texts"),
        (Hybrid(["one", "two"], -1.0), r"hybrid.weight: must lie within \[0, 1000\], got -1.0"),
        (Hybrid(["one", "two"], float("nan")), r"hybrid.weight: must lie within \[0, 1000\], got nan"),
    ]:
        with pytest.raises(ValueError, match=message):
            index.search(queries, 1, hybrid=hybrid)
    with pytest.raises(ValueError, match="hybrid: is searched on the processor alone, got device 'cpu'"):
        index.search(queries, 1, hybrid=Hybrid(["a", "b"], 1.0), device="cpu")
    with pytest.raises(
        ValueError, match="texts: this index has a lexical side and needs one for each of 1 ids, got none"
    ):
        index.add(draw_nodes(1, seed=1), ["new"])
    with pytest.raises(ValueError, match=r"texts: .* of 1 ids, got 2"):
        index.add(draw_nodes(1, seed=1), ["new"], texts=["a", "b"])
    with pytest.raises(ValueError, match=r"level: must lie within \[1, 4\], got 5"):
        index.explain_words(Hybrid(["a", "b"], 1.0), np.zeros((2, 1), int), 5)
    with pytest.raises(ValueError, match="lexical: is needed with texts, got none"):
        TreeIndex.build([draw_nodes(1)], ["d"], make_layout(4, "ntvd"), texts=["a"])
    assert index.ids == make_ids(5)


def test_an_index_without_words_searches_as_before_and_refuses_a_hybrid():
    index = TreeIndex.build([draw_nodes(5)], make_ids(5), make_layout(4, "ntvd"))
    index.add(draw_nodes(1, seed=1), ["new"], texts=["not read"])
    assert not index.has_words and index.search(draw_nodes(1), 3)[0].shape == (1, 3)
    with pytest.raises(ValueError, match="hybrid: this index has no lexical side; build it anew from texts"):
        index.search(draw_nodes(1), 1, hybrid=Hybrid(["a"], 1.0))
    with pytest.raises(ValueError, match="hybrid: this index has no lexical side"):
        index.explain_words(Hybrid(["a"], 1.0), np.zeros((1, 1), int))


@pytest.mark.parametrize("text", ["", "the of", "nobodysword"])
def test_a_query_without_known_words_is_a_search_by_the_tree(text):
    passages = draw_clustered(ROWS, DEPTH)
    index = build_index(make_layout(DEPTH, "ntvd"), passages, draw_texts(ROWS), make_ids(ROWS))
    queries = draw_clustered(1, DEPTH, seed=1)
    one, other = index.search(queries, 5), index.search(queries, 5, hybrid=Hybrid([text], 2.0))
    assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


def test_passages_without_any_word_are_found():
    index = build_index(make_layout(4, "bhattacharyya"), draw_nodes(4), [""] * 4, make_ids(4))
    index.delete(make_ids(4)[:3])
    assert index.search(draw_nodes(1), 3, hybrid=Hybrid(["word"], 2.0))[0].shape == (1, 1)


def test_it_lasts_on_disk_with_all_changes(tmp_path):
    first = MIN_CODED_PASSAGES + 100
    passages, ids = draw_clustered(first, 6), make_ids(first)
    texts = dict(zip(ids, draw_texts(first), strict=True))
    build_index(make_layout(6, "bhattacharyya", "float16"), passages, list(texts.values()), ids, tmp_path / "index")
    index = TreeIndex.load(tmp_path / "index")
    index.add(draw_clustered(20, 6, 3), [f"n{i}" for i in range(20)], texts=["freshword w1"] * 20)
    texts |= {f"n{i}": "freshword w1" for i in range(20)}
    index.delete(ids[: first // 2 + 60])  # the first segment is rewritten
    index.delete(["n3"])
    again, queries = TreeIndex.load(tmp_path / "index", checksums=True), draw_clustered(2, 6, seed=1)
    assert again._state.lexical == index._state.lexical and again.stats() == index.stats()
    assert again.stats()["bytes_of_words_per_document"] > 0
    assert_exact(again, AllSums(again, texts), queries, ["freshword", "w2 w1 w3"], 2.0, 10, 6)
    reader = TreeIndex.load(tmp_path / "index")
    again.add(draw_clustered(1, 6, 4), ["last"], texts=["lastword"])
    texts["last"] = "lastword"
    assert reader.refresh()
    assert_exact(reader, AllSums(reader, texts), queries, ["lastword", "w1"], 2.0, 10, 6)


def find_file(folder, name):
    return next(folder.glob(f"segments/*/{name}"))


def _truncate(folder):
    file = find_file(folder, "words_data.npy")
    file.write_bytes(file.read_bytes()[:-1])


def _scramble(folder):
    file = find_file(folder, "words_terms.npy")
    file.write_bytes(b"garbage" + file.read_bytes()[7:])


def _forget_words(folder):
    file = find_file(folder, "manifest.json")
    write_json(file, {**read_json(file), "words": False})


def _change_constants(folder, **values):
    manifest = read_json(folder / "manifest.json")
    write_json(folder / "manifest.json", {**manifest, "lexical": {**manifest["lexical"], **values}})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: find_file(folder, "words_counts.npy").unlink(), r"words_counts\.npy: file is missing"),
        (_truncate, r"words_data\.npy: \d+ bytes"),
        (_scramble, r"words_terms\.npy: is no array of numbers"),
        (_forget_words, r"segments/\w+: has no posting lists, the index has a lexical side"),
        (lambda f: _change_constants(f, mean_length="long"), r"manifest\.json: lexical: cannot be read"),
        (lambda f: _change_constants(f, settings={"k1": 0}), r"manifest\.json: lexical: cannot be read"),
    ],
)
def test_damage_is_named(tmp_path, damage, message):
    build_index(make_layout(4, "ntvd"), draw_nodes(5), draw_texts(5), make_ids(5), tmp_path / "index")
    damage(tmp_path / "index")
    with pytest.raises(BundleError, match=message):
        TreeIndex.load(tmp_path / "index")


def test_checksums_reveal_a_changed_impact(tmp_path):
    build_index(make_layout(4, "ntvd"), draw_nodes(5), draw_texts(5), make_ids(5), tmp_path / "index")
    file = find_file(tmp_path / "index", "words_data.npy")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    TreeIndex.load(tmp_path / "index")
    with pytest.raises(BundleError, match=r"words_data\.npy: checksum differs"):
        TreeIndex.load(tmp_path / "index", checksums=True)


def test_many_small_additions_are_merged():
    index, texts = build_index(make_layout(4, "ntvd"), draw_nodes(3), ["w1"] * 3, ["a", "b", "c"]), {}
    texts |= dict.fromkeys("abc", "w1")
    for turn in range(30):
        new = dict(zip((f"t{turn}-{i}" for i in range(5)), draw_texts(5, turn), strict=True))
        index.add(draw_nodes(5, seed=turn), list(new), texts=list(new.values()))
        texts |= new
    assert index.stats()["segments"] < 20
    assert_exact(index, AllSums(index, texts), draw_nodes(2, seed=99), draw_texts(2, seed=99), 2.0, 9, 4)
