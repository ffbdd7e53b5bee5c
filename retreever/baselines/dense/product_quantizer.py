"""A product quantiser (Jégou 2011) on the frozen encodings: many dimensions in few bytes."""

from retreever.baselines.baseline import Form
from retreever.baselines.dense.frozen_encoder import Frozen
from retreever.encoding.encoding_store import EncodedDataset
from retreever.system.progress import Track, silent

PARTS = (8, 64, 192)


class PQ(Frozen):
    """Exhaustive search over codes of as many bytes as divide the encoder's width."""

    name = "pq"

    def index(self, data: EncodedDataset, track: Track = silent) -> None:
        """Hold the passages of `data`, to be asked by its queries."""
        super().index(data, track)
        self.forms = tuple(Form(code=f"pq{parts}") for parts in PARTS if self._passages.shape[1] % parts == 0)
