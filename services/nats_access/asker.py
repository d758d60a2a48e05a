"""Who asks a question, and where it may be answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from services.nats_access.wire import REQUEST_INFO

ACROSS_ACCOUNTS: Final = "_R_."  # what a server makes of a reply subject of another account
REPLY_PREFIXES: Final = (ACROSS_ACCOUNTS, "_INBOX.")

_REQUESTER_MAX: Final = 256


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


def may_answer(reply: str) -> bool:
    """Say whether a reply subject is one to answer on.

    An asker can name any subject, and nobody checks it (architecture 6.1).
    """
    return reply.startswith(REPLY_PREFIXES)
