"""Random encoders of three architectures, for all tests of this folder."""

from pathlib import Path

import pytest

from tests.support.architectures import ARCHITECTURES, build_encoder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {name: build_encoder(name, root / name) for name in ARCHITECTURES}
