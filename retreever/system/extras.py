"""Packages that serve one feature and are installed with an extra; a missing one is one clear line."""

import importlib
from types import ModuleType

from retreever.errors import MissingExtraError


def import_extra(module: str, extra: str) -> ModuleType:
    """Import a package that an extra of retreever brings.

    Raises:
        MissingExtraError: it is not installed; the message says what to install.

    >>> import_extra("no_such_package", "baselines")
    Traceback (most recent call last):
    ...
    retreever.errors.MissingExtraError: no_such_package is not installed: pip install 'retreever[baselines]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise MissingExtraError(f"{module} is not installed: pip install 'retreever[{extra}]'") from None
