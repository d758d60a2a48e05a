"""What goes back to a client that is refused: JSON, and the headers of NATS micro services."""

from __future__ import annotations

from typing import Final

import msgspec

from events.base import Struct
from events.leaves import RefusalCode
from services.refusals import RefusedError

ERROR: Final = "Nats-Service-Error"
ERROR_CODE: Final = "Nats-Service-Error-Code"


class Problem(Struct, omit_defaults=True):
    """Why there is no certificate."""

    code: RefusalCode
    message: str
    retry_after: float | None = None  # seconds, where waiting can help


class Refused(Struct):
    """The body of a refusal."""

    error: Problem


_ENCODER: Final = msgspec.json.Encoder()


def refusal(refused: RefusedError) -> tuple[bytes, dict[str, str]]:
    """Return body and headers that tell a client why it is refused."""
    body = _ENCODER.encode(
        Refused(
            error=Problem(
                code=refused.code, message=refused.message, retry_after=refused.retry_after
            )
        )
    )
    return body, {ERROR: _one_line(refused.message), ERROR_CODE: refused.code}


def _one_line(message: str) -> str:
    """Return a text that is safe in a header, whatever of a client's own words stands in it."""
    return "".join(c if " " <= c <= "~" else "?" for c in message)
