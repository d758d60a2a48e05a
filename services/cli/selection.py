"""Which events a replay shows."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final, Self

from events.base import Struct
from events.catalogue import TYPES, UPCASTERS
from events.envelope import Recorded
from events.leaves import LeafIssued
from services.cli.common import CliError, Exit
from services.pki import spiffe

_KEY_ID: Final = re.compile(r"[0-9a-f]{64}")
_SERIAL: Final = re.compile(r"(?:serial=)?(?:0x)?0*([0-9a-f]{1,40})", re.IGNORECASE)


class Selection(Struct):
    """What was asked for; None means any."""

    first: int
    last: int | None
    since: datetime | None
    types: frozenset[str] | None
    spiffe_id: str | None
    service: str | None
    serial: str | None

    @classmethod
    def of(
        cls,
        *,
        first: int = 1,
        last: int | None = None,
        since: datetime | None = None,
        event_type: str | None = None,
        identity: str | None = None,
        serial: str | None = None,
    ) -> Self:
        """Read what a user asked for; raises CliError."""
        spiffe_id = service = None
        if identity is not None and identity.startswith("spiffe://"):
            spiffe_id = identity
            _check(identity)
        elif identity is not None:
            kind, _, service = identity.partition(".")
            if kind != "service" or not service:
                raise CliError(
                    f"{identity!r} is no identity: a SPIFFE id, or service.NAME", Exit.USAGE
                )
        return cls(
            first=first,
            last=last,
            since=since,
            types=_types(event_type) if event_type is not None else None,
            spiffe_id=spiffe_id,
            service=service,
            serial=read_serial(serial) if serial is not None else None,
        )

    def takes(self, recorded: Recorded) -> bool:
        """Say whether this event is asked for."""
        return (
            (self.since is None or recorded.stored >= self.since)
            and (self.types is None or recorded.envelope.type in self.types)
            and (self.spiffe_id is None or recorded.envelope.subject == self.spiffe_id)
            and (self.service is None or self.service == _service(recorded.envelope.subject))
            and (self.serial is None or self.serial == _serial_of(recorded))
        )


def _check(spiffe_id: str) -> None:
    try:
        spiffe.parse(spiffe_id)
    except spiffe.SpiffeIdError as error:
        raise CliError(f"{spiffe_id!r} is no identity: {error}", Exit.USAGE) from error


def read_serial(text: str) -> str:
    """Return a serial number as the ledger has it, however it is written; raises CliError."""
    found = _SERIAL.fullmatch(text.strip().replace(":", ""))
    if found is None:
        raise CliError(f"{text!r} is no serial number: hex digits, with colons or not", Exit.USAGE)
    return found[1].lower()


def read_root_id(text: str) -> str:
    """Return the id of a root as it is shown, with colons or not as typed; raises CliError."""
    digits = _digits(text)
    if not re.fullmatch(r"([0-9a-f]{2})+", digits):
        raise CliError(
            f"{text!r} is no id of a root: hex digits, as `caledger roots get` shows it", Exit.USAGE
        )
    return bytes.fromhex(digits).hex(":")


def read_key_id(text: str) -> str:
    """Return the id of a key as the ledger has it, with colons or not as typed; raises CliError."""
    digits = _digits(text)
    if not _KEY_ID.fullmatch(digits):
        raise CliError(
            f"{text!r} is no id of a key: 64 hex digits, as `caledger status` shows that of what "
            "signs leaves, and `caledger ca crl` of every issuer",
            Exit.USAGE,
        )
    return digits


def _digits(text: str) -> str:
    return text.strip().replace(":", "").lower()


def _serial_of(recorded: Recorded) -> str | None:
    return recorded.event.serial if isinstance(recorded.event, LeafIssued) else None


def _types(name: str) -> frozenset[str]:
    """Return every version of a type: `leaf.issued`, or one version by its whole name."""
    known = {*TYPES, *UPCASTERS}
    found = {kind for kind in known if kind == name or _short(kind) == name}
    if not found:
        names = ", ".join(sorted({_short(kind) for kind in known}))
        raise CliError(f"there are no events of type {name!r}; there are {names}", Exit.USAGE)
    return frozenset(found)


def _short(kind: str) -> str:
    return kind.removeprefix("caledger.").rpartition(".")[0]


def _service(subject: str) -> str | None:
    """Return the service that an event is about."""
    try:
        parsed = spiffe.parse(subject)
    except spiffe.SpiffeIdError:
        return None
    return parsed.service if isinstance(parsed, spiffe.ServiceId) else None
