"""RaBitQ (Gao 2024): one, two or four bits per dimension of the frozen encodings, with an unbiased estimate."""

from retreever.baselines.baseline import Form
from retreever.baselines.dense.frozen_encoder import FrozenEncoder

RABITQ_BITS = (1, 2, 4)


class RaBitQ(FrozenEncoder):
    """Exhaustive search over RaBitQ codes, by faiss's fastest kernel."""

    name = "rabitq"
    forms = tuple(Form(code=f"rabitq{bits}") for bits in RABITQ_BITS)
