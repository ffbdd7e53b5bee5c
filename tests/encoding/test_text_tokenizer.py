"""Token ids equal those of transformers' fast tokenizers, however texts are cut."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from retreever.encoding.encoder_files import locate_encoder
from retreever.encoding.text_tokenizer import TextTokenizer
from tests.support.tiny import WORDS

TEXTS = ["", "ba", " ".join(WORDS[:40]), "  be  bi ", "unknown ba", " ".join(WORDS[5:12]), "naïve café, 3.14!"] * 3


@pytest.mark.parametrize("name", ["bert", "modernbert", "minilm"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("length", [3, 5, 9, 64])
@pytest.mark.parametrize("prefix", ["", "query: "])
def test_ids_are_those_of_transformers(
    folders: dict[str, Path], tmp_path: Path, name: str, side: str, length: int, prefix: str
) -> None:
    theirs = AutoTokenizer.from_pretrained(locate_encoder("minilm") if name == "minilm" else folders[name])
    theirs.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    theirs.truncation_side = side
    texts = [prefix + text for text in TEXTS]
    expected = theirs(texts, truncation=True, max_length=length)["input_ids"]
    whole = theirs(texts)["input_ids"]
    ours = TextTokenizer(tmp_path / "tokenizer.json").tokenize(texts, length, side, keep_whole=True)
    assert ours.split() == expected
    assert ours.untruncated is not None and ours.untruncated.split() == whole


def test_threads_with_other_lengths_do_not_disturb_each_other(folders: dict[str, Path]) -> None:
    tokenizer = TextTokenizer(folders["modernbert"] / "tokenizer.json")
    lengths = [3 + i % 20 for i in range(200)]
    text = [" ".join(WORDS)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda length: tokenizer.tokenize(text, length, "right", keep_whole=False), lengths))
    assert [len(own.ids) for own in found] == lengths


def test_no_texts_have_no_ids(folders: dict[str, Path]) -> None:
    none = TextTokenizer(folders["modernbert"] / "tokenizer.json").tokenize([], 9, "right", keep_whole=True)
    assert len(none.ids) == 0 and none.offsets.tolist() == [0]
    np.testing.assert_array_equal(none.untruncated.offsets, [0])
