"""A refusal as it travels from where it is found to the caller."""

from typing import Any


class Refused(Exception):
    """A request that is not answered, with its HTTP status.

    Attributes:
        detail: what is wrong; faults with their fields, or words.
        retry_after: seconds after which it may be tried again; None where that would not help.
    """

    def __init__(self, status: int, detail: list[dict[str, Any]] | str, retry_after: int | None = None):
        super().__init__(status, detail, retry_after)
        self.status, self.detail, self.retry_after = status, detail, retry_after

    @classmethod
    def field(cls, name: str, rule: str, status: int = 422, place: str = "body") -> "Refused":
        """Of one field of the request."""
        return cls(status, [{"loc": [place, name], "msg": rule}])
