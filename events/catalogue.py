"""Every event type there is, in one union; how old versions become new; the JSON Schemas of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

import msgspec

from events.authority import (
    CAConfigured,
    IntermediateInstalled,
    IntermediateRequested,
    KeyCreated,
    KeyDestroyed,
    KeyShared,
    LeafSignerSelected,
    RootActivated,
    RootPruned,
    RootPublished,
    RootRetired,
    RotationAborted,
    RotationStarted,
)
from events.leadership import LeadershipAcquired, LeadershipReleased
from events.leaves import LeafIssued, LeafRefusalsCounted, LeafRefused
from events.revocation import CrlIssued, LeavesRevoked
from events.signers import GrantGiven, GrantWithdrawn, SignersAssigned

AuthorityEvent = (
    LeadershipAcquired
    | LeadershipReleased
    | CAConfigured
    | KeyCreated
    | KeyShared
    | KeyDestroyed
    | RotationStarted
    | RotationAborted
    | RootPublished
    | RootActivated
    | RootRetired
    | RootPruned
    | IntermediateRequested
    | IntermediateInstalled
    | LeafSignerSelected
    | LeavesRevoked
    | CrlIssued
    | SignersAssigned
)
GrantEvent = GrantGiven | GrantWithdrawn
LeafEvent = LeafIssued | LeafRefused | LeafRefusalsCounted
AnyEvent = AuthorityEvent | GrantEvent | LeafEvent

AUTHORITY_TYPES: frozenset[type] = frozenset(get_args(AuthorityEvent))
GRANT_TYPES: frozenset[type] = frozenset(get_args(GrantEvent))
LEAF_TYPES: frozenset[type] = frozenset(get_args(LeafEvent))
TYPES: Mapping[str, type[AnyEvent]] = {kind.TYPE: kind for kind in get_args(AnyEvent)}

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

UPCASTERS: Mapping[str, tuple[str, Upcaster]] = {}
"""Old type -> (the next version's type, its data told as that version does); applied in a chain."""


class UnknownEventTypeError(ValueError):
    """A well-formed event of a type that this software does not know: newer software is needed."""

    def __init__(self, event_type: str) -> None:
        super().__init__(
            f"unknown event type {event_type!r}: newer software is needed to read this"
        )
        self.event_type = event_type


class EventCodec:
    """Data of an event from and to JSON, by the type that its envelope names."""

    def __init__(
        self,
        types: Mapping[str, type[AnyEvent]] = TYPES,
        upcasters: Mapping[str, tuple[str, Upcaster]] = UPCASTERS,
    ) -> None:
        self._decoders = {name: msgspec.json.Decoder(kind) for name, kind in types.items()}
        self._upcasters = upcasters

    def decode(self, event_type: str, data: bytes | msgspec.Raw) -> AnyEvent:
        """Read one event's data.

        Raises UnknownEventTypeError, or msgspec.ValidationError/DecodeError where the data is not
        what its type says.
        """
        decoder = self._decoders.get(event_type)
        if decoder is not None:
            return decoder.decode(data)
        if event_type not in self._upcasters:
            raise UnknownEventTypeError(event_type)
        told = msgspec.json.decode(data, type=dict[str, Any])
        while event_type in self._upcasters:
            event_type, upcast = self._upcasters[event_type]
            told = upcast(told)
        return self.decode(event_type, msgspec.json.encode(told))


CODEC = EventCodec()
