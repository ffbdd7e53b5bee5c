"""A product quantiser after a fitted rotation (Ge 2013) on the frozen encodings, with the sizes of the plain one."""

from retreever.baselines.baseline import Form
from retreever.baselines.dense.frozen_encoder import FrozenEncoder
from retreever.baselines.dense.product_quantizer import PQ_PARTS
from retreever.encoding.encoding_store import EncodedDataset
from retreever.system.progress import Track, track_silently


class OPQ(FrozenEncoder):
    """Exhaustive search over codes of as many bytes as those of `PQ`."""

    name = "opq"

    def index(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Index the passages of `data`; `search` then takes rows of its queries."""
        super().index(data, track)
        self.forms = tuple(Form(code=f"opq{parts}") for parts in PQ_PARTS if self._passages.shape[1] % parts == 0)
