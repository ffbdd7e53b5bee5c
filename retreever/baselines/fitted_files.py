"""How a fitted rival is kept: settings as JSON, arrays as safetensors, checksums over both."""

from pathlib import Path
from typing import Any

import numpy as np

from retreever.errors import BundleError
from retreever.system.files import seal, unseal, write_aside

ARRAYS = "arrays.safetensors"


def save(folder: Path, name: str, settings: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> None:
    """Write a rival's `settings` and `arrays` to `folder`, whole or not at all."""
    from safetensors.numpy import save_file

    with write_aside(folder) as aside:
        aside.mkdir()
        if arrays:
            save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, aside / ARRAYS)
        seal(aside, {"rival": name, "settings": settings})


def load(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read back what `save` wrote for the rival called `name`.

    Raises:
        BundleError: a file is missing or damaged, or the folder holds another rival.
    """
    from safetensors.numpy import load_file

    manifest = unseal(folder)
    if manifest.get("rival") != name:
        raise BundleError(f"{folder}: holds the rival {manifest.get('rival')!r}, expected {name!r}")
    arrays = load_file(folder / ARRAYS) if ARRAYS in manifest["files"] else {}
    return manifest["settings"], arrays
