"""Which events a replay shows."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from events.base import Struct
from events.catalogue import TYPES, UPCASTERS
from events.envelope import Recorded
from services.cli.common import CliError, Exit
from services.pki import spiffe


class Selection(Struct):
    """What was asked for; None means any."""

    first: int
    last: int | None
    since: datetime | None
    types: frozenset[str] | None
    spiffe_id: str | None
    service: str | None

    @classmethod
    def of(
        cls,
        *,
        first: int = 1,
        last: int | None = None,
        since: datetime | None = None,
        event_type: str | None = None,
        identity: str | None = None,
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
        )

    def takes(self, recorded: Recorded) -> bool:
        """Say whether this event is asked for."""
        return (
            (self.since is None or recorded.stored >= self.since)
            and (self.types is None or recorded.envelope.type in self.types)
            and (self.spiffe_id is None or recorded.envelope.subject == self.spiffe_id)
            and (self.service is None or self.service == _service(recorded.envelope.subject))
        )


def _check(spiffe_id: str) -> None:
    try:
        spiffe.parse(spiffe_id)
    except spiffe.SpiffeIdError as error:
        raise CliError(f"{spiffe_id!r} is no identity: {error}", Exit.USAGE) from error


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
