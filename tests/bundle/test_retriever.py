"""A bundle: search, storage, changes, and the errors it raises."""

import json
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from retreever import trained_tree
from retreever.bundle.make_bundle import make_bundle
from retreever.bundle.retriever import Retreever
from retreever.config import Config
from retreever.data.dataset import Passage
from retreever.encoding.encoding_store import open_encoded_dataset
from retreever.errors import BundleError
from retreever.model import get_similarity
from retreever.system.files import seal_folder, write_json
from retreever.trained_tree import digest_model, load_model, route_encodings, save_model
from tests.support import tiny
from tests.support.bundles import tiny_bundle


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def retreever(bundle):
    return Retreever.load(bundle)


KINDS = [
    {},
    {"loss__similarity": "ntvd"},
    {"index__dtype": "float32"},
    {"tree__split": "cross_attention", "tree__d_emb": 8, "tree__d_k": 8, "tree__propagation": "learned"},
]


@pytest.mark.parametrize("settings", KINDS, ids=lambda kind: "-".join(map(str, kind.values())) or "defaults")
def test_search_agrees_with_the_similarity_of_the_model(place, settings):
    name = "-".join(map(str, settings.values())) or "defaults"
    opened = Retreever.load(tiny_bundle(*place, name, **settings))
    corpus, query = tiny.tiny_dataset().corpus, tiny.tiny_dataset().queries[3].text
    level = opened.tree.depth - 1
    logs = [
        torch.from_numpy(opened.embed(texts, kind, level)).clamp_min(1e-30).log()
        for texts, kind in (([query], "query"), ([passage.full_text for passage in corpus], "passage"))
    ]
    expected = get_similarity(opened.config.loss.similarity)(*logs)[0].numpy()
    hits = opened.search([query], k=len(corpus), level=level)[0]
    atol = 1e-5 if settings.get("index__dtype") == "float32" else 2e-3
    by_id = {hit.id: hit.score for hit in hits}
    np.testing.assert_allclose([by_id[passage.id] for passage in corpus], expected, atol=atol)


def test_a_compact_bundle_finds_nearly_the_same_at_the_last_level_only(place, retreever):
    compact = Retreever.load(tiny_bundle(*place, "compact", index__compact=True))
    queries = [query.text for query in tiny.tiny_dataset().queries]
    ours, theirs = compact.search(queries, k=5), retreever.search(queries, k=5)
    both = [len({hit.id for hit in a} & {hit.id for hit in b}) for a, b in zip(ours, theirs, strict=True)]
    assert np.mean(both) > 4 and compact.index.stats()["compact"]
    with pytest.raises(ValueError, match="level: a compact index has level 4 alone, got 2"):
        compact.search(queries[:1], level=2)
    assert len(compact.explanation.words) == len(retreever.explanation.words)


def test_a_hit_is_the_passage_with_its_score(retreever):
    corpus = {passage.id: passage for passage in tiny.tiny_dataset().corpus}
    for hit in retreever.search(["ba be bi"], k=5)[0]:
        found = corpus[hit.id]
        assert (hit.text, hit.title, hit.metadata) == (found.text, found.title, found.metadata)
        assert type(hit.score) is float


def test_texts_get_the_same_answers_together_and_alone(retreever):
    texts = [query.text for query in tiny.tiny_dataset().queries[:8]]
    together = retreever.search(texts, k=3)
    for text, hits in zip(texts, together, strict=True):
        np.testing.assert_allclose([h.score for h in retreever.search([text], k=3)[0]], [h.score for h in hits], 1e-4)


def test_k_defaults_to_the_configuration_and_is_capped_by_the_corpus(retreever):
    assert len(retreever.search(["ba"])[0]) == retreever.config.index.k == 10
    assert len(retreever.search(["ba"], k=1000)[0]) == len(retreever.index) == 300
    assert retreever.search([]) == []


@pytest.mark.parametrize("level", [1, 2, 3, 4, None])
def test_every_level_is_an_embedding(retreever, level):
    vectors = retreever.embed(["ba be", "ku"], "passage", level)
    assert vectors.shape == (2, 2 ** (level or 4)) and vectors.dtype == np.float32
    np.testing.assert_allclose(vectors.sum(axis=1), 1, atol=1e-5)


def test_threads_get_the_same_answers_as_single_calls(retreever):
    texts = [query.text for query in tiny.tiny_dataset().queries[:60]]
    alone = [retreever.search([text], k=3) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: retreever.search([text], k=3), texts)) == alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": [""]}, r"texts\[0\]: must be a text with something in it, got ''"),
        ({"texts": ["ba", " \n"]}, r"texts\[1\]: must be a text with something"),
        ({"texts": ["ba", 3]}, r"texts\[1\]: must be a text with something in it, got 3"),
        ({"texts": ["b\ud800"]}, r"texts\[0\]: must be valid Unicode"),
        ({"texts": "ba"}, "texts: must be a list of texts, got the one text 'ba'"),
        ({"texts": ["ba"], "k": 0}, r"k: must be a whole number in \[1, 1000\], got 0"),
        ({"texts": ["ba"], "k": 1001}, r"k: must be a whole number in \[1, 1000\], got 1001"),
        ({"texts": ["ba"], "k": 2.5}, r"k: must be a whole number in \[1, 1000\], got 2.5"),
        ({"texts": ["ba"], "level": 0}, r"level: must be a whole number in \[1, 4\], got 0"),
        ({"texts": ["ba"], "level": 5}, r"level: must be a whole number in \[1, 4\], got 5"),
        ({"texts": ["ba"], "level": 1.5}, r"level: must be a whole number in \[1, 4\], got 1.5"),
    ],
)
def test_bad_calls_name_field_value_and_rule(retreever, arguments, message):
    with pytest.raises(ValueError, match=message):
        retreever.search(**arguments)


def test_a_saved_model_is_loaded_unchanged(place, bundle):
    config = tiny.tiny_config(place[0] / "bert", tree__init_std=1.0)
    tree, loaded = load_model(bundle)
    again = load_model(bundle.parent / "model")[0]
    assert loaded == config and not tree.training
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tree(x), again(x))
    assert digest_model(bundle) == digest_model(bundle.parent / "model")


def test_a_model_saved_before_lexical_features_has_none(bundle, tmp_path):
    shutil.copytree(bundle.parent / "model", tmp_path / "model")
    saved = json.loads((tmp_path / "model" / "model.json").read_text())
    del saved["config"]["encoder"]["words"]
    write_json(tmp_path / "model" / "model.json", saved)
    seal_folder(tmp_path / "model", {"format": saved["format"]})
    assert Config().encoder.words > 0 == load_model(tmp_path / "model")[1].encoder.words


def test_chunks_of_a_routing_do_not_matter(place, bundle, monkeypatch):
    tree, config = load_model(bundle)
    passages = open_encoded_dataset(config, place[1]).passages
    whole = np.concatenate(list(route_encodings(tree, config, passages)))
    monkeypatch.setattr(trained_tree, "ROUTING_CHUNK_TEXTS", {False: 7, True: 3})
    np.testing.assert_allclose(np.concatenate(list(route_encodings(tree, config, passages))), whole, atol=1e-6)
    some = np.concatenate(list(route_encodings(tree, config, passages, np.array([5, 2]))))
    np.testing.assert_allclose(some, whole[[5, 2]], atol=1e-6)


def test_a_bundle_holds_no_pickle(bundle):
    endings = {path.suffix for path in bundle.rglob("*") if path.is_file()}
    assert endings == {".safetensors", ".json", ".jsonl", ".npy"}
    for path in bundle.rglob("*.npy"):
        np.load(path, allow_pickle=False)


def _flip_byte(name):
    def damage(folder):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return damage


def _change_format(folder):
    for name in ("model.json", "manifest.json"):
        values = json.loads((folder / name).read_text())
        if name == "model.json":
            values["format"] = 99
        else:
            del values["files"]["model.json"]
        (folder / name).write_text(json.dumps(values))


def _replace_weights(folder):
    tree, config = load_model(folder)
    with torch.no_grad():
        tree.split.offset.add_(1)
    save_model(tree, config, folder.parent / "other")
    for name in trained_tree.MODEL_FILES:
        shutil.copy(folder.parent / "other" / name, folder / name)
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in trained_tree.MODEL_FILES:
        del manifest["files"][name]
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, r"manifest\.json: file is missing"),
        (lambda folder: (folder / "model.json").unlink(), r"model\.json: file is missing"),
        (_flip_byte("model.safetensors"), r"model\.safetensors: checksum differs"),
        (_flip_byte("model.json"), r"model\.json: checksum differs"),
        (lambda folder: (folder / "index" / "manifest.json").write_text("{"), r"manifest\.json: not valid JSON"),
        (lambda folder: (folder / "documents" / "offsets.npy").unlink(), r"offsets\.npy: file is missing"),
        (_change_format, r"model\.json: format 99, this version reads 1"),
        (_replace_weights, "was built for model .*, not for model"),
    ],
)
def test_damage_is_named(tmp_path, bundle, damage, message):
    shutil.copytree(bundle, tmp_path / "bundle")
    damage(tmp_path / "bundle")
    with pytest.raises(BundleError, match=message):
        Retreever.load(tmp_path / "bundle")


def test_a_model_without_an_index_says_what_makes_one(bundle):
    with pytest.raises(BundleError, match="index: is missing; `retreever index` makes a bundle"):
        Retreever.load(bundle.parent / "model")


def test_a_failed_bundle_leaves_no_file(place, bundle, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("retreever.bundle.make_bundle.write_documents", full)
    with pytest.raises(OSError, match="disk full"):
        make_bundle(bundle.parent / "model", tmp_path / "bundle", place[1])
    assert not list(tmp_path.iterdir())


@pytest.fixture
def live(bundle, tmp_path):
    """A copy of the bundle that may be changed."""
    shutil.copytree(bundle, tmp_path / "live")
    return tmp_path / "live"


NEW = Passage("new", "ba be bi ba be bi", "", {"half": 7})


def test_added_passages_are_found_after_opening_or_refreshing(live):
    retreever, other = Retreever.load(live), Retreever.load(live, encoder=False)
    retreever.add([NEW, Passage("newer", "so sa si")])
    best = retreever.search([NEW.text], k=1)[0][0]
    assert (best.id, best.text, best.metadata) == (NEW.id, NEW.text, NEW.metadata)
    nodes = retreever.route([NEW.text])
    assert other.index.refresh() and other.documents[int(other.index.search(nodes, 1)[0][0, 0])] == NEW
    again = Retreever.load(live)
    assert len(again.index) == 302 and again.search([NEW.text], k=1)[0][0] == best
    again.delete(["new"])
    assert Retreever.load(live).search([NEW.text], k=1)[0][0].id != "new"


def test_a_refused_addition_leaves_no_text(live):
    retreever = Retreever.load(live)
    with pytest.raises(ValueError, match="the index has 'p0003' already"):
        retreever.add([NEW, Passage("p0003", "ba")])
    with pytest.raises(ValueError, match="must be a text with something in it"):
        retreever.add([Passage("empty", " ")])
    assert not (live / "documents" / "added.jsonl").exists() and len(Retreever.load(live).index) == 300


def test_a_bundle_without_its_encoder_routes_no_text(live):
    with pytest.raises(ValueError, match="opened without its encoder"):
        Retreever.load(live, encoder=False).search(["ba"])


KILLED = """
import os, sys, threading, time
from retreever.data.dataset import Passage
from retreever.bundle.retriever import Retreever
live = Retreever.load(sys.argv[1])
for n in range(10_000):
    name = f"{sys.argv[2]}-{n}"
    live.add([Passage(name, "ba be bi")])
    print("added", name, flush=True)
    if n % 3 == 2:
        live.delete([name])
        print("deleted", name, flush=True)
"""


@pytest.mark.slow
def test_confirmed_changes_survive_kill_9_at_any_moment(live):
    """The writer is killed repeatedly: every change it confirmed is on disk, and the next writer goes on."""
    held, draw = {}, np.random.default_rng(0)
    for turn in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(live), str(turn)], stdout=subprocess.PIPE, text=True
        ) as process:
            lines = [process.stdout.readline()]
            threading.Timer(float(draw.uniform(0.1, 1.5)), process.kill).start()
            lines += process.stdout.readlines()
        said = [line.split() for line in lines if line.endswith("\n")]
        assert len(said) > 1
        for done, name in said:
            held[name] = done == "added"
        again = Retreever.load(live)
        there = set(again.index.ids)
        for name, expected in held.items():
            last = name == said[-1][1]  # a deletion may have been done and not said
            assert (name in there) == expected or last
        for number in again.index.list_numbers()[300:]:
            assert again.documents[int(number)].id == again.index.find_ids([number])[0]
        held[said[-1][1]] = said[-1][1] in there
