"""The first dimensions of the frozen encoding: what a user does who needs less and trains nothing.

Encoders that were not trained for it (MiniLM was not) lose much by it; those that were keep most.
"""

from retreever.baselines.baseline import PLAIN, Form
from retreever.baselines.dense.frozen_encoder import Frozen
from retreever.encoding.encoding_store import EncodedDataset
from retreever.system.progress import Track, silent


class Truncated(Frozen):
    """Cosine between prefixes of pooled encodings, of 16, 32, ... dimensions up to less than their width."""

    name = "truncated"

    def index(self, data: EncodedDataset, track: Track = silent) -> None:
        """Hold the passages of `data`, to be asked by its queries."""
        super().index(data, track)
        sizes = [2**d for d in range(4, 11) if 2**d < self._passages.shape[1]]
        self.forms = tuple(Form(size, code) for code in (PLAIN, "int8") for size in sizes)
