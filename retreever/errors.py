"""Every error that retreever raises on purpose, one tree.

A message names the field, file or line, the value found and the rule it breaks.
"""


class RetreeverError(Exception):
    """Base of all errors that are the caller's to mend. The command line prints them without a traceback."""


class ConfigError(RetreeverError):
    """A configuration that breaks rules; `faults` lists every one of them, not only the first."""

    def __init__(self, faults: list[str]):
        self.faults = faults
        super().__init__("\n".join(faults))


class DataError(RetreeverError):
    """A data set that cannot be read as it stands: file, line and rule are in the message."""


class EncoderError(RetreeverError):
    """An encoder that cannot be found, or a text it cannot encode."""


class BundleError(RetreeverError):
    """Saved files (model, encodings, index, checkpoint) that are missing, damaged or made for something else."""


class StorageError(RetreeverError):
    """Shared storage that cannot be reached, or that holds something else than was put there."""


class TrackingError(RetreeverError):
    """A run, model version or alias that the tracking server does not hold."""


class PromotionError(RetreeverError):
    """A model that a gate does not let through: a limit is missed, or the champion is not beaten."""


class TrainingError(RetreeverError):
    """A training that cannot start or go on: too small a batch, a loss that is no longer finite."""
