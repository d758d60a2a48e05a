"""Who led when: the history of terms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

from events.leadership import LeadershipAcquired, LeadershipReleased
from projections.ledger_fold import Folded
from projections.projection import Added, Change, Ended, Projection, Row


class TermRow(Row):
    """A node led under this term, from `sequence` until `to_sequence` (None: it still does)."""

    TABLE: ClassVar[str] = "terms"
    KEY: ClassVar[tuple[str, ...]] = ("sequence", "position")

    position: int
    term: int
    node: str
    acquired: str  # the time that the event says
    to_sequence: int | None = None


def changes(folded: Folded) -> Iterator[Change]:
    """Tell the terms that one message begins and ends."""
    if folded.entry is None:
        return
    for recorded in folded.entry.events:
        match recorded.event:
            case LeadershipAcquired(node=node, term=term):
                yield Ended(table=TermRow, to_sequence=recorded.sequence)
                yield Added(
                    row=TermRow(
                        sequence=recorded.sequence,
                        position=recorded.position,
                        term=term,
                        node=node,
                        acquired=recorded.envelope.time.isoformat(),
                    )
                )
            case LeadershipReleased():
                yield Ended(table=TermRow, to_sequence=recorded.sequence)
            case _:
                pass


PROJECTION: Final = Projection(name="leadership", version=1, rows=(TermRow,), changes=changes)
