"""A local text-generation model, asked greedily."""

import pytest

from retreever.encoding.text_generator import TextGenerator
from retreever.errors import EncoderError
from tests.support.architectures import save_language_model
from tests.support.tiny import WORDS


def test_it_writes_the_same_after_the_same_prompt(tmp_path):
    generate = TextGenerator(str(save_language_model(tmp_path / "gpt")), 40, 10)
    written = generate("ba be bi")
    assert written == generate("ba be bi") and 0 < len(written.split()) <= 10
    assert generate(" ".join(WORDS * 3))  # longer than the model reads


def test_a_model_that_is_not_there_is_one_clear_message(tmp_path):
    with pytest.raises(EncoderError, match=r"language model .*nowhere: does not load"):
        TextGenerator(str(tmp_path / "nowhere"), 40, 10)
