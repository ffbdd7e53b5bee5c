"""All errors that retreever raises on purpose, in one class tree.

A message names the field, file or line, the value found, and the rule that it breaks.
"""


class RetreeverError(Exception):
    """Base of all errors that the caller can correct. The command line prints them without a traceback."""


class ConfigError(RetreeverError):
    """A configuration that breaks rules; `faults` lists all faults, not only the first."""

    def __init__(self, faults: list[str]):
        self.faults = faults
        super().__init__("\n".join(faults))


class DataError(RetreeverError):
    """A data set that cannot be read; the message has file, line and rule."""


class EncoderError(RetreeverError):
    """An encoder or a language model that cannot be found, or a text that an encoder cannot encode."""


class BundleError(RetreeverError):
    """Saved files (model, encodings, index, checkpoint) that are missing, damaged, or of another kind or version."""


class MissingExtraError(RetreeverError):
    """A package that an extra of retreever installs is missing; the message says which extra."""


class StorageError(RetreeverError):
    """Shared storage that cannot be reached, or whose content differs from what was pushed."""


class TrackingError(RetreeverError):
    """A run, model version or alias that the tracking server does not hold."""


class PromotionError(RetreeverError):
    """A model that fails a gate: it misses a limit, or does not beat the champion."""


class TrainingError(RetreeverError):
    """A training that cannot start or continue: too small a batch, a loss that is no longer finite."""
