"""Random encoders of 32 dimensions in three architectures, which read at most 128 tokens; and a language model."""

from pathlib import Path

import torch

from tests.support.tiny import WORDS, tiny_bert

ARCHITECTURES = ["bert", "modernbert", "longformer"]


def save_word_tokenizer(folder: Path) -> None:
    """Save a tokenizer for `[CLS] words [SEP]`, for the architectures other than BERT."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)


def save_language_model(folder: Path) -> Path:
    """Save a random text-generation model that reads and writes 64 tokens together."""
    from transformers import GPT2Config, GPT2LMHeadModel

    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "bos_token_id": 2, "eos_token_id": 3}
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=4 + len(WORDS), **size)).save_pretrained(folder)
    save_word_tokenizer(folder)
    return folder


def build_encoder(name: str, folder: Path) -> Path:
    """Save a random encoder of 32 dimensions."""
    if name == "bert":
        return tiny_bert(folder)
    from transformers import LongformerConfig, LongformerModel, ModernBertConfig, ModernBertModel

    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    size |= {"vocab_size": 4 + len(WORDS), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    torch.manual_seed(0)
    if name == "modernbert":
        model = ModernBertModel(
            ModernBertConfig(**size, cls_token_id=2, max_position_embeddings=128, local_attention=8)
        )
    else:
        model = LongformerModel(LongformerConfig(**size, max_position_embeddings=129, attention_window=8))
    model.save_pretrained(folder)
    save_word_tokenizer(folder)
    return folder
