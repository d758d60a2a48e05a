"""Who asks a question, and where it may be answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from services.nats_access.wire import REQUEST_INFO

ACROSS_ACCOUNTS: Final = "_R_."  # what a server makes of a reply subject of another account
REPLY_PREFIXES: Final = (ACROSS_ACCOUNTS, "_INBOX.")

_REQUESTER_MAX: Final = 256

log = structlog.get_logger()


class _RequestInfo(msgspec.Struct):
    user: str | None = None


_REQUEST_INFO: Final = msgspec.json.Decoder(_RequestInfo)


def requester_of(headers: Mapping[str, str] | None) -> str | None:
    """Return the NATS user key of who asked, as the server says it (nats.md, section 10)."""
    told = headers.get(REQUEST_INFO) if headers else None
    if told is None:
        return None
    try:
        user = _REQUEST_INFO.decode(told).user
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return user if user is not None and 0 < len(user) <= _REQUESTER_MAX else None


async def answer(
    nc: Client, replies: Iterable[str], body: bytes, headers: dict[str, str] | None = None
) -> None:
    """Send an answer to all who ask for it; where it cannot be sent, who asked asks again."""
    for reply in replies:
        try:
            await nc.publish(reply, body, headers=headers)
        except NatsError as error:
            log.warning("an answer could not be sent", error=str(error) or repr(error))


def may_answer(reply: str) -> bool:
    """Say whether a reply subject is one to answer on.

    An asker can name any subject, and nobody checks it (architecture 6.1).
    """
    return reply.startswith(REPLY_PREFIXES)
