"""Files of a fitted baseline: settings as JSON, arrays as safetensors, checksums of both."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from retreever.errors import BundleError
from retreever.system.files import seal_folder, verify_sealed_folder, write_atomically

ARRAYS_FILE = "arrays.safetensors"
NAME_KEY = "rival"  # the key in stored manifests; renaming it would invalidate them


class FittedPart(Protocol):
    """A fitted baseline that another one is made of."""

    name: str

    def save(self, folder: Path) -> None:
        """Write the baseline to `folder`."""


def save_fitted_files(
    folder: Path,
    name: str,
    settings: dict[str, Any],
    arrays: dict[str, np.ndarray] | None = None,
    parts: Iterable[FittedPart] = (),
) -> None:
    """Write a baseline's `settings` and `arrays`, and each part in a folder of its name, whole or not at all."""
    from safetensors.numpy import save_file

    with write_atomically(folder) as aside:
        aside.mkdir()
        if arrays:
            save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, aside / ARRAYS_FILE)
        for part in parts:
            part.save(aside / part.name)
        seal_folder(aside, {NAME_KEY: name, "settings": settings})


def load_fitted_files(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what `save_fitted_files` wrote for the baseline called `name`.

    Raises:
        BundleError: a file is missing or damaged, or the folder holds another baseline.
    """
    from safetensors.numpy import load_file

    manifest = verify_sealed_folder(folder)
    if manifest.get(NAME_KEY) != name:
        raise BundleError(f"{folder}: holds the baseline {manifest.get(NAME_KEY)!r}, expected {name!r}")
    arrays = load_file(folder / ARRAYS_FILE) if ARRAYS_FILE in manifest["files"] else {}
    return manifest["settings"], arrays
