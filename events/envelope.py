"""Entries and envelopes: one message of the stream is a CloudEvents 1.0 batch of events.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md#4-json-batch-format
The bytes as stored are the event: nothing that was read is ever encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw

from events.base import Moment, Sequence, Struct, Ulid
from events.catalogue import (
    AUTHORITY_TYPES,
    CODEC,
    GRANT_TYPES,
    AnyEvent,
    EventCodec,
    UnknownEventTypeError,
)
from events.leadership import Term
from events.signers import SignersAssigned
from events.subjects import BadNameError, Family, LedgerSubject

CONTENT_TYPE = "application/cloudevents-batch+json"
ENTRY_BYTES_MAX = 900_000  # below NATS's default max_payload of 1 MiB, headers included
EVENTS_MAX = 1_000  # in one entry


class Envelope(Struct, omit_defaults=True):
    """CloudEvents context attributes, ours among them; `data` as the bytes that were stored."""

    specversion: Literal["1.0"]
    id: Ulid
    source: Annotated[str, Meta(min_length=1, max_length=512)]  # /caledger/<dc>/<worker>/<node>
    type: Annotated[str, Meta(min_length=1, max_length=256)]
    subject: Annotated[str, Meta(max_length=2048)]  # SPIFFE id, root id, signer, node
    time: Moment
    datacontenttype: Literal["application/json"]
    data: Raw
    # of an authority decision's other events, and of its grants: the id of its first event
    correlationid: str | None = None
    causationid: str | None = None  # id of what led to this one; nobody sets it yet
    # authority entries only
    term: Term | None = None  # the leader's, that the decision was made under
    expectedsequence: Sequence | None = None  # the authority entry that the decision was made on
    messages: Annotated[int, Meta(ge=1, le=1000)] | None = (
        None  # of the atomic append that this begins
    )


class NewEvent(Struct):
    """An event that is about to be recorded, stamped by the worker that decided it."""

    id: Ulid
    source: str
    subject: str
    time: Moment
    event: AnyEvent
    correlation_id: str | None = None
    causation_id: str | None = None


class Stored(Struct):
    """One message as the stream holds it."""

    sequence: Sequence
    subject: str
    stored: datetime  # the server's time, aware
    data: bytes


class Recorded(Struct):
    """One event at its place in the ledger: (sequence, position)."""

    sequence: Sequence
    position: int  # in its entry, from 0
    stored: datetime
    envelope: Envelope
    event: AnyEvent
    raw: bytes  # the event's own bytes, as stored


VoidKind = Literal["malformed", "subject", "event_id", "expected", "atomic", "grant_message"]


class VoidEntryError(ValueError):
    """An entry that every fold passes over in the same way, and that `ledger verify` names."""

    def __init__(self, reason: str, *, kind: VoidKind = "malformed") -> None:
        super().__init__(reason)
        self.kind: VoidKind = kind  # which of the rules it breaks


class Entry(Struct):
    """A well-formed entry: events that happened together, on the subject they belong on."""

    sequence: Sequence
    subject: LedgerSubject
    events: tuple[Recorded, ...]

    @property
    def messages(self) -> int:
        """How many messages its atomic append has, itself included."""
        return self.events[0].envelope.messages or 1


_BATCH = msgspec.json.Decoder(list[Raw])
_ENVELOPE = msgspec.json.Decoder(Envelope)
_ENCODER = msgspec.json.Encoder()


class _Outgoing(Struct, omit_defaults=True):
    """An Envelope with its data not encoded yet; the same fields, in the order of the wire."""

    id: str
    source: str
    type: str
    subject: str
    time: datetime
    data: Any
    specversion: str
    datacontenttype: str
    correlationid: str | None = None
    causationid: str | None = None
    term: int | None = None
    expectedsequence: int | None = None
    messages: int | None = None


def encode_entry(
    events: Seq[NewEvent],
    *,
    term: int | None = None,
    expected_sequence: int | None = None,
    messages: int | None = None,
) -> bytes:
    """Write events that happen together as one entry.

    `term`, `expected_sequence` and `messages` are for authority entries. Raises ValueError where
    the entry would be empty or too large.
    """
    if not 0 < len(events) <= EVENTS_MAX:
        raise ValueError(f"an entry holds 1 to {EVENTS_MAX} events, not {len(events)}")
    encoded = _ENCODER.encode(
        [
            _Outgoing(
                id=new.id,
                source=new.source,
                type=new.event.TYPE,
                subject=new.subject,
                time=new.time,
                data=new.event,
                specversion="1.0",
                datacontenttype="application/json",
                correlationid=new.correlation_id,
                causationid=new.causation_id,
                term=term,
                expectedsequence=expected_sequence,
                messages=messages,
            )
            for new in events
        ]
    )
    if len(encoded) > ENTRY_BYTES_MAX:
        raise ValueError(f"an entry holds at most {ENTRY_BYTES_MAX} bytes, not {len(encoded)}")
    return encoded


def decode_entry(stored: Stored, *, datacenter: str, codec: EventCodec = CODEC) -> Entry:
    """Read one message of the stream, by itself.

    What can only be told from the entries before it (a repeated id, what an authority entry
    expects) is the fold's to check. Raises VoidEntryError, or UnknownEventTypeError: the second
    stops a fold, the first does not (architecture, section 3).
    """
    try:
        subject = LedgerSubject.parse(stored.subject, datacenter=datacenter)
    except BadNameError as error:
        raise VoidEntryError(str(error), kind="subject") from error
    try:
        raws = _BATCH.decode(stored.data)
        envelopes = [_ENVELOPE.decode(raw) for raw in raws]
    except (ValueError, RecursionError) as error:
        raise VoidEntryError(f"not a list of well-formed events: {error}") from error
    if not envelopes:
        raise VoidEntryError("an empty list of events")
    if len({envelope.id for envelope in envelopes}) != len(envelopes):
        raise VoidEntryError("the same event id twice in one entry", kind="event_id")
    first = envelopes[0]
    events = []
    for position, (raw, envelope) in enumerate(zip(raws, envelopes, strict=True)):
        try:
            event = codec.decode(envelope.type, envelope.data)
        except UnknownEventTypeError:
            raise
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise VoidEntryError(f"{envelope.type} with malformed data: {error}") from error
        if _family(event) is not subject.family:
            raise VoidEntryError(
                f"{envelope.type} does not belong on {stored.subject}", kind="subject"
            )
        if subject.family is Family.AUTHORITY:
            if envelope.term is None or envelope.expectedsequence is None:
                raise VoidEntryError("an authority event without term and expectedsequence")
            if (envelope.term, envelope.expectedsequence, envelope.messages) != (
                first.term,
                first.expectedsequence,
                first.messages,
            ):
                raise VoidEntryError("the events of one authority entry disagree")
        events.append(
            Recorded(
                sequence=stored.sequence,
                position=position,
                stored=stored.stored,
                envelope=envelope,
                event=event,
                raw=bytes(raw),
            )
        )
    if subject.family is Family.AUTHORITY:
        _check_append(first.messages or 1, [recorded.event for recorded in events])
    return Entry(sequence=stored.sequence, subject=subject, events=tuple(events))


def _check_append(messages: int, events: Seq[AnyEvent]) -> None:
    """Raise VoidEntryError where an authority entry is not of as many messages as it says.

    Readers wait until the stream has gone past the append. One that says it is longer than it can
    be would have them wait for ever, and with them everybody whose append would end the wait.
    """
    tables = [event for event in events if isinstance(event, SignersAssigned)]
    if len(tables) > 1:
        raise VoidEntryError("assigns signers twice in one entry", kind="atomic")
    changed = [signer for table in tables for signer in (*table.granted, *table.withdrawn)]
    if len(set(changed)) != len(changed):
        raise VoidEntryError("changes a signer's grant twice in one entry", kind="atomic")
    if messages != 1 + len(changed):
        raise VoidEntryError(
            f"says that it has {messages} messages, and changes {len(changed)} grants",
            kind="atomic",
        )


def _family(event: AnyEvent) -> Family:
    if type(event) in AUTHORITY_TYPES:
        return Family.AUTHORITY
    return Family.GRANT if type(event) in GRANT_TYPES else Family.LEAVES
