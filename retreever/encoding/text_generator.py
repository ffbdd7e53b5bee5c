"""A local text-generation model, asked greedily: the same prompt has the same answer.

Names of nodes and RAPTOR's summaries are written with it. What is asked is not known here.
"""

from typing import Any

from retreever.errors import EncoderError


class TextGenerator:
    """Any causal language model.

    Args:
        name: a Hugging Face id or a folder.
        max_read_tokens: tokens read of a prompt, at most; the rest is cut off.
        max_written_tokens: tokens written, at most.

    Raises:
        EncoderError: there is no such model, or it does not load.
    """

    def __init__(self, name: str, max_read_tokens: int, max_written_tokens: int):
        from transformers import AutoModelForCausalLM, AutoTokenizer  # slow to import

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            model: Any = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=False, use_safetensors=True)
        except Exception as error:  # of the network, the hub, settings, weights and vocabulary: they share no base
            raise EncoderError(f"language model {name}: does not load: {error}") from error
        self._model = model.eval()
        positions = getattr(model.config, "max_position_embeddings", None) or max_read_tokens + max_written_tokens
        self._max_written_tokens = min(max_written_tokens, positions // 4)
        self._max_read_tokens = min(max_read_tokens, positions - self._max_written_tokens)

    def __call__(self, prompt: str) -> str:
        """What the model writes after `prompt`, without white space around it; it may be empty."""
        import torch

        given = self._tokenizer(prompt, return_tensors="pt", truncation=True, max_length=self._max_read_tokens)
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=given["input_ids"],
                attention_mask=given["attention_mask"],
                max_new_tokens=self._max_written_tokens,
                do_sample=False,
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id or 0,
            )
        written: str = self._tokenizer.decode(out[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
        return written.strip()
