"""A refusal on the wire: JSON, and the headers of NATS micro services. The only place that knows.

https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-32.md
"""

from __future__ import annotations

from typing import Final

import msgspec

from events.base import Struct
from events.leaves import RefusalCode
from services.refusals import RefusedError

ERROR: Final = "Nats-Service-Error"
ERROR_CODE: Final = "Nats-Service-Error-Code"

_BEGINS: Final = b'{"error"'  # no other answer does
_ENCODER: Final = msgspec.json.Encoder()


class ErrorTold(Struct, omit_defaults=True):
    """Why what was asked for was not done."""

    code: RefusalCode
    message: str
    retry_after: float | None = None  # seconds, where waiting can help


class ErrorReply(Struct):
    """An answer that says no; its code is also in the header Nats-Service-Error-Code."""

    error: ErrorTold


_DECODER: Final = msgspec.json.Decoder(ErrorReply)


class UnreadableReplyError(ValueError):
    """An answer that begins as a refusal, and is none."""


def encode(refused: RefusedError) -> tuple[bytes, dict[str, str]]:
    """Return body and headers that tell a client why it is refused."""
    told = ErrorTold(code=refused.code, message=refused.message, retry_after=refused.retry_after)
    headers = {ERROR: _one_line(refused.message), ERROR_CODE: refused.code}
    return _ENCODER.encode(ErrorReply(error=told)), headers


def decode(body: bytes) -> ErrorTold | None:
    """Return why an answer says no, None where it does not; raises UnreadableReplyError."""
    if not body.startswith(_BEGINS):
        return None
    try:
        return _DECODER.decode(body).error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UnreadableReplyError(str(error)) from error


def _one_line(message: str) -> str:
    """Return a text that is safe in a header, whatever of a client's own words stands in it."""
    return "".join(c if " " <= c <= "~" else "?" for c in message)
