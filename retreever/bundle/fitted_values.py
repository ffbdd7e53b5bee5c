"""What was fitted for a bundle's tree, as a JSON file in the bundle: it names the tree, and the bundle seals it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retreever.errors import BundleError
from retreever.system.files import read_json, verify_sealed_folder, write_json


def save_fitted_values(file: Path, version: int, model: str, values: Mapping[str, Any]) -> None:
    """Write values into a bundle's folder, which is sealed afterwards.

    Args:
        version: of the file's format.
        model: digest of the tree.
    """
    write_json(file, {"format": version, "model": model, **values})


def load_fitted_values(file: Path, version: int, model: str) -> dict[str, Any] | None:
    """Read what `save_fitted_values` wrote, and compare its checksum; None where the bundle has no such file.

    Raises:
        BundleError: the file is damaged, or was made for another model or by another version.
    """
    if not file.is_file():
        return None
    verify_sealed_folder(file.parent, checksums=(file.name,))
    stored = read_json(file)
    if not isinstance(stored, dict) or stored.get("format") != version or stored.get("model") != model:
        raise BundleError(f"{file}: was made for another model or by another version")
    return stored
