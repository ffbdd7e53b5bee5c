"""A refused request: the one error that becomes an HTTP status. HTTP itself is not known here."""

from typing import Any


class RefusalError(Exception):
    """A request that is not answered.

    Attributes:
        status: HTTP status.
        detail: the reason: a sentence, or a list of faults with their fields.
        retry_after: seconds after which a retry makes sense; None where it does not.
    """

    def __init__(self, status: int, detail: list[dict[str, Any]] | str, retry_after: int | None = None):
        super().__init__(status, detail, retry_after)
        self.status, self.detail, self.retry_after = status, detail, retry_after

    @classmethod
    def for_field(cls, name: str, rule: str, status: int = 422, place: str = "body") -> "RefusalError":
        """Make a refusal because of one field of the request."""
        return cls(status, [{"loc": [place, name], "msg": rule}])
