"""What a client is told when it does not get what it asked for."""

from __future__ import annotations

import re
from typing import Final

from events.leaves import RefusalCode

RATE_LIMITED: Final = "Rate limit reached, try again later"  # Consul's clients compare this text
MESSAGE_CHARS_MAX: Final = 500  # of what a refusal says: a client's own words may stand in it

_PRIVATE_KEY: Final = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE.*", re.DOTALL)


class RefusedError(Exception):
    """A rule says no. Final, expected, and told to the client in these words."""

    def __init__(
        self, code: RefusalCode, message: str, *, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.code: RefusalCode = code
        self.message = message
        self.retry_after = retry_after  # seconds, where waiting can help


def clip(message: str) -> str:
    """Cut a message to what a refusal may hold; what cannot be printed is written as an escape.

    A private key that somebody put where it does not belong is not repeated: it would be in their
    terminal's log, and in ours (H12).
    """
    message = _PRIVATE_KEY.sub("(a private key)", message)
    message = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
    return message if len(message) <= MESSAGE_CHARS_MAX else message[: MESSAGE_CHARS_MAX - 1] + "…"
