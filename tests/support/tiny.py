"""A BERT of 32 dimensions with random weights, and a data set whose texts it distinguishes; built in a second."""

import json
from pathlib import Path

import numpy as np

from retreever.config import Config, EncoderConfig
from retreever.data.dataset import Passage, Query, RetrievalDataset
from retreever.encoding.encoding_store import EncodedDataset, encode_dataset

WORDS = [f"{first}{last}" for first in "bcdfghklmnprst" for last in ("a", "e", "i", "o", "u", "an", "en", "in", "on")]


def tiny_bert(folder: Path) -> Path:
    """Save a random BERT and a word-level tokenizer to `folder`."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *WORDS]) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=len(special) + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    BertModel(settings).save_pretrained(folder)
    return folder


def tiny_dataset(pairs: int = 300, seed: int = 0) -> RetrievalDataset:
    """Passages of random words, each with a query of six of its words. 60 % train, 20 % dev, 20 % test."""
    draw = np.random.default_rng(seed)
    texts = [" ".join(draw.choice(WORDS, 12, replace=False)) for _ in range(pairs)]
    corpus = tuple(Passage(f"p{i:04d}", text, metadata={"half": i % 2}) for i, text in enumerate(texts))
    queries = tuple(Query(f"q{i:04d}", " ".join(draw.permutation(text.split())[:6])) for i, text in enumerate(texts))
    rows = np.stack([np.arange(pairs), np.arange(pairs), np.ones(pairs, np.int64)], axis=1)
    cuts = np.split(rows, [int(0.6 * pairs), int(0.8 * pairs)])
    return RetrievalDataset("tiny", corpus, queries, dict(zip(("train", "dev", "test"), cuts, strict=True)))


def tiny_config(encoder: Path, **overrides: object) -> Config:
    """A configuration that trains in a second; `overrides` are dotted names with `__` for the dot."""
    settings = {
        "data.name": "tiny",
        "encoder.name": str(encoder),
        "encoder.dtype": "float32",
        "encoder.words": 0.0,
        "tree.depth": 4,
        "tree.init_std": 0.05,
        "tree.init_growth": 0.0,
        "tree.level_norm": False,
        "tree.anchor": 0.0,  # a random encoder knows nothing worth keeping
        "loss.scale_per_level": False,
        "loss.scale": 400.0,
        "depth.decay": 0.0,
        "depth.distill": 0.0,
        "train.steps": 30,
        "train.batch_size": 32,
        "train.eval_every": 10,
        "train.lr": 0.05,
        "train.weight_decay": 0.01,
        "train.input_dropout": 0.1,
    }
    settings |= {name.replace("__", "."): value for name, value in overrides.items()}
    return Config().with_overrides(settings)


def encoded(folder: Path, encoder: EncoderConfig) -> EncodedDataset:
    """The tiny data set, encoded with tokens, for every split function, into a store below `folder`."""
    return encode_dataset(tiny_dataset(), encoder.model_copy(update={"tokens": True}), folder / "encodings")


def json_lines(text: str) -> list[dict]:
    """Every line of `text` that is a JSON object."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
