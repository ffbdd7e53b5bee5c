"""Fixtures that several tests of bundles use: a tiny workspace, and a bundle of a tiny tree."""

import pytest

from tests.support.bundles import tiny_bundle, tiny_workspace


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    return folder, tiny_workspace(folder)


@pytest.fixture(scope="module")
def bundle(place):
    return tiny_bundle(*place)
