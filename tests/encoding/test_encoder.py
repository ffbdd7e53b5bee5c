"""The encoder against closed forms and sentence-transformers: truncation, pooling, errors."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from retreever.config import EncoderConfig
from retreever.encoding.encoder import Encoder
from retreever.encoding.encoder_files import locate_encoder
from retreever.errors import EncoderError
from tests.support.architectures import ARCHITECTURES
from tests.support.tiny import WORDS

TEXTS = [" ".join(WORDS[(3 * i + j) % len(WORDS)] for j in range(length)) for i, length in enumerate((9, 1, 40, 3, 17))]


@pytest.fixture(params=ARCHITECTURES)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def config(folder: Path | str, **changes: object) -> EncoderConfig:
    runtime = "torch" if "longformer" in str(folder) else "auto"  # it has no graph, and takes seconds to show it
    return EncoderConfig(**{"name": str(folder), "runtime": runtime, "dtype": "float32", "words": 0.0, **changes})


def copy_folder(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def encode_one_text(folder: Path, text: str, pooling: str) -> torch.Tensor:
    """One text without padding, by `transformers` alone."""
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    pooled = states[0] if pooling == "cls" else states.mean(dim=0)
    return pooled / pooled.norm()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooled_equals_one_text_at_a_time(folder: Path, pooling: str) -> None:
    encoder = Encoder.load(config(folder, pooling=pooling))
    expected = torch.stack([encode_one_text(folder, text, pooling) for text in TEXTS])
    got = encoder.encode_pooled(TEXTS, "passage")
    assert got.dtype == np.float32 and got.shape == (5, encoder.dim)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_batch_composition_and_order_do_not_matter(folder: Path) -> None:
    encoder = Encoder.load(config(folder, batch_tokens=512))
    many = TEXTS * 20
    order = np.random.default_rng(0).permutation(len(many))
    assert len(encoder.plan_batches(encoder.tokenize(many, "passage"))) > 2
    shuffled = encoder.encode_pooled([many[i] for i in order], "passage")
    np.testing.assert_allclose(shuffled, encoder.encode_pooled(TEXTS, "passage")[order % len(TEXTS)], atol=1e-5)


def test_mean_of_token_states_is_the_pooled_vector(folder: Path) -> None:
    encoder = Encoder.load(config(folder))
    states, mask = encoder.encode_tokens(TEXTS, "passage")
    assert mask.sum(axis=1).tolist() == [len(text.split()) + 2 for text in TEXTS]  # [CLS] and [SEP] are tokens
    assert not states[~mask].any()
    mean = states.sum(axis=1) / mask.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(mean, encoder.encode_pooled(TEXTS, "passage"), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(mean, axis=1), np.ones(5), atol=1e-5)


def test_first_token_state_is_the_pooled_vector_of_cls(folder: Path) -> None:
    encoder = Encoder.load(config(folder, pooling="cls"))
    states, _ = encoder.encode_tokens(TEXTS, "passage")
    np.testing.assert_allclose(states[:, 0], encoder.encode_pooled(TEXTS, "passage"), atol=1e-5)


def test_without_normalize_states_are_those_of_the_model(folders: dict[str, Path]) -> None:
    raw = Encoder.load(config(folders["bert"], normalize=False))
    unit = Encoder.load(config(folders["bert"]))
    long = raw.encode_pooled(TEXTS, "passage")
    norms = np.linalg.norm(long, axis=1, keepdims=True)
    assert np.abs(norms - 1).min() > 0.01
    np.testing.assert_allclose(long / norms, unit.encode_pooled(TEXTS, "passage"), atol=1e-5)
    scaled = raw.encode_tokens(TEXTS, "passage")[0] / norms[:, :, None]
    np.testing.assert_allclose(scaled, unit.encode_tokens(TEXTS, "passage")[0], atol=1e-5)


def test_prefixes_are_read_before_their_own_kind_only(folders: dict[str, Path]) -> None:
    plain = Encoder.load(config(folders["bert"]))
    prefixed = Encoder.load(config(folders["bert"], query_prefix="ba be: ", passage_prefix="bi "))
    queries = plain.encode_pooled([f"ba be: {text}" for text in TEXTS], "query")
    passages = plain.encode_pooled([f"bi {text}" for text in TEXTS], "passage")
    np.testing.assert_allclose(prefixed.encode_pooled(TEXTS, "query"), queries, atol=1e-6)
    np.testing.assert_allclose(prefixed.encode_pooled(TEXTS, "passage"), passages, atol=1e-6)


@pytest.mark.parametrize(("side", "kept"), [("left", WORDS[-6:]), ("right", WORDS[:6])])
def test_queries_lose_tokens_on_the_chosen_side_and_keep_special_ones(folder: Path, side: str, kept: list[str]) -> None:
    encoder = Encoder.load(config(folder, query_max_length=8, passage_max_length=5, query_truncation=side))

    def words(kind: str) -> list[str]:
        return AutoTokenizer.from_pretrained(folder).convert_ids_to_tokens(
            encoder.tokenize([" ".join(WORDS)], kind).ids.tolist()
        )

    assert words("query") == ["[CLS]", *kept, "[SEP]"]
    assert words("passage") == ["[CLS]", *WORDS[:3], "[SEP]"]


def test_batches_hold_similar_lengths_and_no_more_than_batch_tokens(folders: dict[str, Path]) -> None:
    encoder = Encoder.load(config(folders["bert"], batch_tokens=512))
    lengths = np.random.default_rng(0).integers(1, 100, 200)
    tokenized = encoder.tokenize([" ".join(["ba"] * n) for n in lengths], "passage")
    plan = encoder.plan_batches(tokenized)
    np.testing.assert_array_equal(tokenized.lengths, lengths + 2)
    np.testing.assert_array_equal(np.sort(np.concatenate(plan)), np.arange(200))
    assert all(len(rows) * tokenized.lengths[rows].max() <= 512 for rows in plan)
    assert np.all(np.diff(tokenized.lengths[np.concatenate(plan)]) <= 0)


def test_texts_beyond_one_tokenizer_call_keep_their_rows(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder.load(config(folders["bert"]))
    whole = encoder.tokenize(TEXTS, "passage")
    monkeypatch.setattr("retreever.encoding.text_tokenizer.TEXTS_PER_TOKENIZER_CALL", 2)
    parts = encoder.tokenize(TEXTS, "passage")
    np.testing.assert_array_equal(parts.ids, whole.ids)
    np.testing.assert_array_equal(parts.offsets, whole.offsets)


def test_the_empty_text_has_its_special_tokens_and_no_texts_have_no_rows(folder: Path) -> None:
    encoder = Encoder.load(config(folder))
    states, mask = encoder.encode_tokens([""], "query")
    assert mask.sum() == 2 and np.isfinite(states).all()
    assert encoder.encode_pooled([], "query").shape == (0, 32)
    assert encoder.encode_tokens([], "query")[0].shape == (0, 0, 32)


def test_a_text_without_any_token_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    bare = copy_folder(folders["modernbert"], tmp_path / "bare")
    settings = json.loads((bare / "tokenizer.json").read_text())
    (bare / "tokenizer.json").write_text(json.dumps({**settings, "post_processor": None}))
    encoder = Encoder.load(config(bare))
    assert len(encoder.tokenize(["ba"], "query").ids) == 1
    with pytest.raises(EncoderError, match=r"query 1: the tokenizer finds no token in '  '"):
        encoder.encode_pooled(["ba", "  "], "query")


def test_bfloat16_stays_near_float32(folder: Path) -> None:
    half = Encoder.load(config(folder, dtype="bfloat16", runtime="torch"))
    assert half.runtime.module.model.dtype == torch.bfloat16
    cosine = (half.encode_pooled(TEXTS, "passage") * Encoder.load(config(folder)).encode_pooled(TEXTS, "passage")).sum(
        axis=1
    )
    assert cosine.min() > 0.999


def test_files_that_do_not_make_an_encoder_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="does not load"):
        Encoder.load(config(tmp_path))
    cut = copy_folder(folders["bert"], tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(EncoderError, match="cut does not load"):
        Encoder.load(config(cut))


def test_missing_weights_are_refused_except_those_of_the_pooler(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_folder(folders["bert"], tmp_path / "holes")
    weights = {name: w for name, w in load_file(folder / "model.safetensors").items() if "pooler" not in name}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    whole = Encoder.load(config(folders["bert"])).encode_pooled(TEXTS, "query")
    np.testing.assert_array_equal(Encoder.load(config(folder)).encode_pooled(TEXTS, "query"), whole)
    gone = "encoder.layer.1.output.dense.weight"
    save_file({n: w for n, w in weights.items() if n != gone}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(EncoderError, match=f"1 weights are missing, e.g. {gone}"):
        Encoder.load(config(folder))


def test_weights_in_a_pickle_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_folder(folders["bert"], tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match="safetensors"):
        Encoder.load(config(folder))


@pytest.mark.parametrize("kind", ["query", "passage"])
def test_more_tokens_than_positions_are_refused(folder: Path, kind: str) -> None:
    encoder = Encoder.load(config(folder, **{f"{kind}_max_length": 128}))
    assert np.isfinite(encoder.encode_pooled([" ".join(WORDS * 2)], kind)).all()
    with pytest.raises(EncoderError, match=rf"encoder.{kind}_max_length: .* at most 128, got 129"):
        Encoder.load(config(folder, **{f"{kind}_max_length": 129}))


def test_loading_and_encoding_are_silent(
    folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        Encoder.load(config(folder, query_max_length=8)).encode_pooled([" ".join(WORDS), "ba"], "query")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_minilm_equals_sentence_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from sentence_transformers import SentenceTransformer

    texts = ["A short one.", "", "Paths of a tree, from its root to a leaf. " * 40, "naïve café", "x"]
    oracle = SentenceTransformer(str(locate_encoder("minilm")), device="cpu")
    encoder = Encoder.load(EncoderConfig(dtype="float32", words=0.0, passage_max_length=oracle.max_seq_length))
    expected = oracle.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(encoder.encode_pooled(texts, "passage"), expected, atol=1e-5)
