"""A product quantiser (Jégou 2011) on the frozen encodings: many dimensions in few bytes."""

from retreever.baselines.baseline import Form
from retreever.baselines.dense.frozen_encoder import FrozenEncoder
from retreever.encoding.encoding_store import EncodedDataset
from retreever.system.progress import Track, track_silently

PQ_PARTS = (8, 64, 192)


class PQ(FrozenEncoder):
    """Exhaustive search over codes of 8, 64 and 192 bytes, as far as these divide the encoder's width."""

    name = "pq"

    def index(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Index the passages of `data`; `search` then takes rows of its queries."""
        super().index(data, track)
        self.forms = tuple(Form(code=f"pq{parts}") for parts in PQ_PARTS if self._passages.shape[1] % parts == 0)
