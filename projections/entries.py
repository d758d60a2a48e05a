"""What the ledger holds: the id of every event that counts, and every entry that does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

from projections.ledger_fold import Folded
from projections.projection import Added, Projection, Row


class EventIdRow(Row):
    """An event id that is used up (architecture section 3: an entry that repeats one is void)."""

    TABLE: ClassVar[str] = "event_ids"
    KEY: ClassVar[tuple[str, ...]] = ("event_id", "sequence", "position")

    event_id: str
    position: int


class VoidRow(Row):
    """An entry that was passed over."""

    TABLE: ClassVar[str] = "voids"
    KEY: ClassVar[tuple[str, ...]] = ("sequence",)

    subject: str
    stored: str
    kind: str
    reason: str


def changes(folded: Folded) -> Iterator[Added]:
    """Tell of one message which ids it uses up, or that it is void."""
    if folded.entry is not None:
        for recorded in folded.entry.events:
            yield Added(
                row=EventIdRow(
                    event_id=recorded.envelope.id,
                    sequence=recorded.sequence,
                    position=recorded.position,
                )
            )
    if folded.void is not None:
        yield Added(
            row=VoidRow(
                sequence=folded.sequence,
                subject=folded.stored.subject,
                stored=folded.stored.stored.isoformat(),
                kind=folded.void.kind,
                reason=folded.void.reason,
            )
        )


PROJECTION: Final = Projection(
    name="entries", version=1, rows=(EventIdRow, VoidRow), changes=changes
)
