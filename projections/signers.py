"""Who could sign what, when: the history of grants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import ClassVar, Final

import msgspec

from events.signers import SignersAssigned
from projections.disk import open_to_read
from projections.ledger_fold import Folded
from projections.projection import Added, Change, Ended, Projection, Row


class GrantRow(Row):
    """A signer held these partitions from its grant at `sequence` until `to_sequence`."""

    TABLE: ClassVar[str] = "grants"
    KEY: ClassVar[tuple[str, ...]] = ("sequence", "signer")
    INDEXES: ClassVar[tuple[tuple[str, ...], ...]] = (("signer", "to_sequence"),)

    signer: str
    node: str
    slot: int
    partitions: str  # JSON list of numbers
    signing_key_id: str
    rate_per_second: float
    reason: str  # why the signers were assigned anew
    to_sequence: int | None = None


def changes(folded: Folded) -> Iterator[Change]:
    """Tell the grants that one authority entry begins and ends."""
    if folded.entry is None:
        return
    tables = [
        recorded.event
        for recorded in folded.entry.events
        if isinstance(recorded.event, SignersAssigned)
    ]
    if tables:  # the last one of an entry is what the grants after it are about
        yield from _assigned(tables[-1], folded.sequence)


def _assigned(event: SignersAssigned, authority_sequence: int) -> Iterator[Change]:
    table = {assignment.signer: assignment for assignment in event.assignments}
    for place, signer in enumerate((*event.granted, *event.withdrawn)):
        sequence = authority_sequence + 1 + place
        yield Ended(table=GrantRow, to_sequence=sequence, where=(("signer", signer),))
        if place < len(event.granted) and (assignment := table.get(signer)) is not None:
            yield Added(
                row=GrantRow(
                    sequence=sequence,
                    signer=signer,
                    node=assignment.node,
                    slot=assignment.slot,
                    partitions=msgspec.json.encode(assignment.partitions).decode(),
                    signing_key_id=assignment.signing_key_id,
                    rate_per_second=assignment.rate_per_second,
                    reason=event.reason,
                )
            )


def holders(path: Path) -> int:
    """Return how many signers hold a grant, as far as a node's projections file knows.

    Raises sqlite3.Error where there is no such file, or it is none of ours.
    """
    with closing(open_to_read(path)) as file:
        (count,) = file.execute("SELECT COUNT(*) FROM grants WHERE to_sequence IS NULL").fetchone()
    return int(count)


PROJECTION: Final = Projection(name="signers", version=1, rows=(GrantRow,), changes=changes)
