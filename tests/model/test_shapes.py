"""The import hook of conftest.py works: it refuses a tensor of the wrong shape or type."""

import pytest
import torch
from jaxtyping import TypeCheckError

from retreever.model import LinearSplit, ntvd


def test_shapes_are_checked():
    with pytest.raises(TypeCheckError):
        ntvd(torch.zeros(2, 4), torch.zeros(2, 5))
    with pytest.raises(TypeCheckError):
        LinearSplit(4, 3)(torch.zeros(2, 4, dtype=torch.int64))
