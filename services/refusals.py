"""What a client is told when it does not get what it asked for."""

from __future__ import annotations

from typing import Final

from events.leaves import RefusalCode

RATE_LIMITED: Final = "Rate limit reached, try again later"  # Consul's clients compare this text


class RefusedError(Exception):
    """A rule says no. Final, expected, and told to the client in these words."""

    def __init__(
        self, code: RefusalCode, message: str, *, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.code: RefusalCode = code
        self.message = message
        self.retry_after = retry_after  # seconds, where waiting can help
