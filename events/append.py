"""What is appended, as messages: made and read back before anything is sent. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from events.base import Struct
from events.catalogue import AnyEvent
from events.envelope import Entry, NewEvent, Recorded, Stored, decode_entry, encode_entry
from events.log import Grant
from events.signers import GrantGiven, GrantWithdrawn, SignersAssigned
from events.subjects import Subjects

MESSAGES_MAX = 1_000  # of one atomic append; JetStream's own limit


class Message(Struct):
    """One message, not stored yet."""

    subject: str
    data: bytes


class Append(Struct):
    """Messages that are stored together or not at all, and the condition on which they are."""

    messages: tuple[Message, ...]
    message_id: str  # of the first message; the same append always has the same
    condition_subject: str  # concrete, never a wildcard (architecture 3.1, rule 1)
    condition_sequence: int  # the last one on that subject


def authority_append(
    subjects: Subjects,
    events: Sequence[NewEvent],
    *,
    term: int,
    expected_sequence: int,
    grants: Sequence[Grant],
) -> Append:
    """Return one authority entry with the grants that it changes.

    Raises ValueError where it would be too large, void, or where the grants are not those that
    `signers.assigned` names, in its order.
    """
    if 1 + len(grants) > MESSAGES_MAX:
        raise ValueError(f"an append has at most {MESSAGES_MAX} messages, not {1 + len(grants)}")
    _check_grants(events, grants)
    count = 1 + len(grants) if grants else None
    data = encode_entry(events, term=term, expected_sequence=expected_sequence, messages=count)
    entry = _read_back(subjects, Message(subject=subjects.authority, data=data), events)
    first = entry.events[0].envelope
    assert (first.term, first.expectedsequence, first.messages) == (term, expected_sequence, count)
    messages = [Message(subject=subjects.authority, data=data)]
    for grant in grants:
        message = Message(subject=subjects.grant(grant.signer), data=encode_entry([grant.event]))
        _read_back(subjects, message, [grant.event])
        messages.append(message)
    return Append(
        messages=tuple(messages),
        message_id=events[0].id,
        condition_subject=subjects.authority,
        condition_sequence=expected_sequence,
    )


def leaves_append(
    subjects: Subjects, signer: str, events: Sequence[NewEvent], *, grant_sequence: int
) -> Append:
    """Return one leaves entry of a signer; raises ValueError where it would be too large or void.

    A grant's sequence is never 0: a signer without a grant appends nothing.
    """
    if grant_sequence < 1:
        raise ValueError(f"{signer} has no grant: nothing can be appended under it")
    message = Message(subject=subjects.leaves(signer), data=encode_entry(events))
    _read_back(subjects, message, events)
    return Append(
        messages=(message,),
        message_id=events[0].id,
        condition_subject=subjects.grant(signer),
        condition_sequence=grant_sequence,
    )


def _check_grants(events: Sequence[NewEvent], grants: Sequence[Grant]) -> None:
    named = [
        signer
        for new in events
        if isinstance(new.event, SignersAssigned)
        for signer in (*new.event.granted, *new.event.withdrawn)
    ]
    if named != [grant.signer for grant in grants]:
        raise ValueError("the grants are not those that signers.assigned names, in its order")
    for grant in grants:
        if (told := _signer(grant.event.event)) != grant.signer:
            raise ValueError(f"a grant of {told} on the subject of {grant.signer}")


def _signer(event: AnyEvent) -> str:
    match event:
        case GrantGiven():
            return event.assignment.signer
        case GrantWithdrawn():
            return event.signer
        case _:
            raise ValueError(f"{event.TYPE} is no grant")


def _read_back(subjects: Subjects, message: Message, meant: Sequence[NewEvent]) -> Entry:
    """Read a message as every reader will; a bug dies here and not on the ledger."""
    stored = Stored(sequence=0, subject=message.subject, stored=meant[0].time, data=message.data)
    entry = decode_entry(stored, datacenter=subjects.datacenter)
    for recorded, new in zip(entry.events, meant, strict=True):
        assert _told(recorded) == new, f"written as {recorded}, meant as {new}"
    return entry


def _told(recorded: Recorded) -> NewEvent:
    envelope = recorded.envelope
    return NewEvent(
        id=envelope.id,
        source=envelope.source,
        subject=envelope.subject,
        time=envelope.time,
        event=recorded.event,
        correlation_id=envelope.correlationid,
        causation_id=envelope.causationid,
    )
