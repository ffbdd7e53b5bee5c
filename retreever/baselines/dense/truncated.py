"""The first dimensions of the frozen encoding: shorter vectors without any fitting.

Encoders trained for truncation keep most of their quality; the others, MiniLM among them, lose much.
"""

from retreever.baselines.baseline import FLOAT32_CODE, Form
from retreever.baselines.dense.frozen_encoder import FrozenEncoder
from retreever.encoding.encoding_store import EncodedDataset
from retreever.system.progress import Track, track_silently


class TruncatedEncoder(FrozenEncoder):
    """Cosine between prefixes of pooled encodings, of 16, 32, ... dimensions, below their full width."""

    name = "truncated"

    def index(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Index the passages of `data`; `search` then takes rows of its queries."""
        super().index(data, track)
        sizes = [2**d for d in range(4, 11) if 2**d < self._passages.shape[1]]
        self.forms = tuple(Form(size, code) for code in (FLOAT32_CODE, "int8") for size in sizes)
