"""Commands as they are written: `config.set` apart, which `configuration` reads."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from events.base import RequestId, Struct
from events.revocation import RevocationReason
from services.refusals import RefusedError, clip
from services.root_manager.configuration import BODY_BYTES_MAX, WAIT_SECONDS_MAX
from services.root_manager.revocation import Chosen


class Asked(Struct):
    """A command as it came."""

    subject: str
    body: bytes
    requester: str | None  # NATS user key of who asked, as the server told it


class Command(Struct, forbid_unknown_fields=True, rename="pascal"):
    """What every command may carry."""

    request_id: RequestId | None = msgspec.field(name="RequestID", default=None)


class Rotate(Command):
    """Rotate to a new root of the same kind."""

    wait_seconds: Annotated[float, Meta(ge=0, le=WAIT_SECONDS_MAX)] = 0.0
    force_without_cross_signing: bool = False
    dry_run: bool = False


class Abort(Command):
    """Give up the rotation that is on its way."""

    reason: Annotated[str, Meta(max_length=1000)] = "asked for"


class Prune(Command):
    """Trust a retired root no more."""

    root_id: Annotated[str, Meta(max_length=100)] = msgspec.field(name="RootID")
    force: bool = False
    dry_run: bool = False


class Revoke(Command):
    """Revoke leaves."""

    leaves: Chosen
    reason: RevocationReason = "unspecified"
    dry_run: bool = False


C = TypeVar("C", bound=Command)


def read(body: bytes, kind: type[C]) -> C:
    """Read a command; raises RefusedError `too_large`, `malformed`."""
    if len(body) > BODY_BYTES_MAX:
        raise RefusedError("too_large", f"a command has at most {BODY_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        text = clip(f"not a command that is known here: {error}")
        raise RefusedError("malformed", text) from error
