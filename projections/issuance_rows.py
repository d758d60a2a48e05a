"""The rows of what was issued and what was refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Final

import msgspec

from events.envelope import Recorded
from events.leaves import IdentityKind, LeafIssued, LeafRefusalsCounted, LeafRefused
from projections.ledger_fold import Folded
from projections.projection import Added, Projection, Row

VERSION: Final = 2


class LeafRow(Row):
    """An issued certificate: all of its event, and whether it broke a rule."""

    TABLE: ClassVar[str] = "leaves"
    KEY: ClassVar[tuple[str, ...]] = ("sequence", "position")
    INDEXES: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("identity", "request_id"),
        ("serial",),
        ("issuer_key_id", "expires"),
    )

    position: int
    event_id: str
    stored: str
    request_id: str | None
    identity: str
    kind: IdentityKind
    name: str
    serial: str
    key_id: str
    issuer_key_id: str
    not_before: str
    not_after: str
    expires: int  # not_after in seconds since 1970, to be compared
    certificate: bytes
    csr_sha256: str
    signer: str
    grant_sequence: int
    requester: str | None
    dns: str  # JSON
    ip: str  # JSON
    irregular: str | None  # which rules it breaks


class RefusalRow(Row):
    """A request that was refused."""

    TABLE: ClassVar[str] = "refusals"
    KEY: ClassVar[tuple[str, ...]] = ("sequence", "position")
    INDEXES: ClassVar[tuple[tuple[str, ...], ...]] = (("identity", "request_id"),)

    position: int
    event_id: str
    stored: str
    request_id: str | None
    identity: str | None
    code: str
    message: str
    signer: str
    grant_sequence: int
    requester: str | None
    durable: int  # 1: it is the request id's answer for ever


class RefusalCountRow(Row):
    """How many more requests of one requester were refused for one reason in some time."""

    TABLE: ClassVar[str] = "refusal_counts"
    KEY: ClassVar[tuple[str, ...]] = ("sequence", "position", "place")

    position: int
    place: int  # in the event's list
    event_id: str
    stored: str
    since: str
    until: str
    code: str
    requester: str | None
    count: int
    signer: str
    grant_sequence: int


def changes(folded: Folded) -> Iterator[Added]:
    """Tell the leaves and refusals of one message."""
    if folded.entry is None:
        return
    for recorded in folded.entry.events:
        match recorded.event:
            case LeafIssued() as leaf:
                reasons = [
                    f"{broken.kind}: {broken.reason}"
                    for broken in folded.irregular
                    if broken.position == recorded.position
                ]
                yield Added(row=leaf_row(recorded, leaf, "; ".join(reasons) or None))
            case LeafRefused() as refused:
                yield Added(row=_refusal_row(recorded, refused))
            case LeafRefusalsCounted() as counted:
                yield from _count_rows(recorded, counted)
            case _:
                pass


def leaf_row(recorded: Recorded, leaf: LeafIssued, irregular: str | None) -> LeafRow:
    """Return the row of one certificate; `projections.issuance` makes the event of it again."""
    return LeafRow(
        sequence=recorded.sequence,
        position=recorded.position,
        event_id=recorded.envelope.id,
        stored=recorded.stored.isoformat(),
        request_id=leaf.request_id,
        identity=leaf.identity,
        kind=leaf.kind,
        name=leaf.name,
        serial=leaf.serial,
        key_id=leaf.key_id,
        issuer_key_id=leaf.issuer_key_id,
        not_before=leaf.not_before.isoformat(),
        not_after=leaf.not_after.isoformat(),
        expires=math.ceil(leaf.not_after.timestamp()),
        certificate=leaf.certificate,
        csr_sha256=leaf.csr_sha256,
        signer=leaf.signer,
        grant_sequence=leaf.grant_sequence,
        requester=leaf.requester,
        dns=msgspec.json.encode(leaf.dns).decode(),
        ip=msgspec.json.encode(leaf.ip).decode(),
        irregular=irregular,
    )


def _refusal_row(recorded: Recorded, refused: LeafRefused) -> RefusalRow:
    return RefusalRow(
        sequence=recorded.sequence,
        position=recorded.position,
        event_id=recorded.envelope.id,
        stored=recorded.stored.isoformat(),
        request_id=refused.request_id,
        identity=refused.identity,
        code=refused.code,
        message=refused.message,
        signer=refused.signer,
        grant_sequence=refused.grant_sequence,
        requester=refused.requester,
        durable=int(refused.durable),
    )


def _count_rows(recorded: Recorded, counted: LeafRefusalsCounted) -> Iterator[Added]:
    for place, count in enumerate(counted.counts):
        yield Added(
            row=RefusalCountRow(
                sequence=recorded.sequence,
                position=recorded.position,
                place=place,
                event_id=recorded.envelope.id,
                stored=recorded.stored.isoformat(),
                since=counted.since.isoformat(),
                until=counted.until.isoformat(),
                code=count.code,
                requester=count.requester,
                count=count.count,
                signer=counted.signer,
                grant_sequence=counted.grant_sequence,
            )
        )


PROJECTION: Final = Projection(
    name="issuance",
    version=VERSION,
    rows=(LeafRow, RefusalRow, RefusalCountRow),
    changes=changes,
)
