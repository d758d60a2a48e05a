"""A small ledger with everything in it, made by hand: real keys, real certificates, real bytes.

By hand, because tests of readers need what no writer of ours can append.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final

from msgspec.structs import replace

from events.authority import (
    CAConfig,
    CAConfigured,
    IntermediateInstalled,
    KeyCreated,
    KeyPurpose,
    RootActivated,
    RootPublished,
)
from events.base import PARTITIONS
from events.catalogue import AnyEvent
from events.envelope import NewEvent, Stored, encode_entry
from events.leadership import LeadershipAcquired, LeadershipReleased
from events.leaves import LeafIssued, LeafRefusalsCounted, LeafRefused, RefusalCount
from events.signers import Assignment, GrantGiven, GrantWithdrawn, SignersAssigned
from events.subjects import Subjects, encode_name, partition_of
from services.pki import certificates, pem
from tests import factories
from tests.factories import NOW

SUBJECTS: Final = Subjects("dc1")
EVEN: Final = "01K20000000000000000000EVN"  # the signer of the even partitions
ODD: Final = "01K200000000000000000000DD"
ROOT_KEY: Final = 0  # numbers of factories.ca_key
SIGNING_KEY: Final = 1
LEAF_KEY: Final = 2


def ulid(number: int) -> str:
    """Return the `number`-th event id."""
    return f"01K1{number:022d}"


def key_id(number: int) -> str:
    """Return the id of one of `factories.ca_key`'s keys."""
    return certificates.key_id(factories.ca_key(number=number).public_key())


@cache
def root_certificate() -> bytes:
    """Return the root of the ledger."""
    return factories.root(key=factories.ca_key(number=ROOT_KEY))


@cache
def signing_certificate(number: int) -> bytes:
    """Return an intermediate below the root."""
    return factories.intermediate(
        key=factories.ca_key(number=number),
        issuer=root_certificate(),
        issuer_key=factories.ca_key(number=ROOT_KEY),
        serial=factories.SERIAL + number,
    )


def authority_events(signing_key: int = SIGNING_KEY) -> list[AnyEvent]:
    """Return what makes a certificate authority out of nothing."""
    root_id = pem.colon_hex(hashlib.sha1(root_certificate()).hexdigest())
    return [
        CAConfigured(
            cluster_id=factories.CLUSTER_ID,
            trust_domain=factories.TRUST_DOMAIN,
            provider="consul",
            config=CAConfig(),
        ),
        _key_created(ROOT_KEY, "root"),
        _key_created(signing_key, "signing"),
        RootPublished(
            root_id=root_id,
            name="Consul CA Primary Cert",
            key_id=key_id(ROOT_KEY),
            key_type="ec",
            key_bits=256,
            external_trust_domain=factories.CLUSTER_ID,
            certificate=root_certificate(),
            not_before=NOW - timedelta(hours=1),
            not_after=NOW + timedelta(days=3650),
        ),
        RootActivated(root_id=root_id),
        IntermediateInstalled(
            datacenter="dc1",
            root_id=root_id,
            signing_key_id=key_id(signing_key),
            certificate=signing_certificate(signing_key),
            not_before=NOW - timedelta(hours=1),
            not_after=NOW + timedelta(days=365),
        ),
    ]


def _key_created(number: int, purpose: KeyPurpose) -> KeyCreated:
    return KeyCreated(
        key_id=key_id(number), key_type="ec", key_bits=256, purpose=purpose, custody="sealed"
    )


def assignment(
    signer: str, partitions: Sequence[int], *, signing_key: int = SIGNING_KEY
) -> Assignment:
    """Return a signer's share of the work."""
    return Assignment(
        signer=signer,
        node="n1",
        slot=0 if signer == EVEN else 1,
        partitions=tuple(partitions),
        signing_key_id=key_id(signing_key),
        rate_per_second=25,
    )


def halves(*, signing_key: int = SIGNING_KEY) -> tuple[Assignment, Assignment]:
    """Return the two signers that share the partitions."""
    return (
        assignment(EVEN, range(0, PARTITIONS, 2), signing_key=signing_key),
        assignment(ODD, range(1, PARTITIONS, 2), signing_key=signing_key),
    )


def signer_of(name: str) -> str:
    """Return which of the two signs for a service."""
    return ODD if partition_of("service", encode_name(name)) % 2 else EVEN


@cache
def certificate(service: str, serial: int, signing_key: int) -> bytes:
    """Return a leaf of one of the signing keys."""
    return factories.leaf_certificate(
        issuer=signing_certificate(signing_key),
        issuer_key=factories.ca_key(number=signing_key),
        key=factories.ca_key(number=LEAF_KEY),
        uri=factories.service_uri(service),
        serial=serial,
    )


def leaf(
    service: str = "web",
    /,
    *,
    grant: int,
    request_id: str | None = None,
    serial: int = factories.SERIAL + 100,
    signing_key: int = SIGNING_KEY,
    **overrides: Any,
) -> LeafIssued:
    """Return a leaf event with its real certificate."""
    der = certificate(service, serial, signing_key)
    loaded = certificates.load(der)
    event = LeafIssued(
        request_id=request_id,
        identity=factories.service_uri(service),
        kind="service",
        name=service,
        serial=f"{serial:x}",
        key_id=key_id(LEAF_KEY),
        issuer_key_id=key_id(signing_key),
        not_before=loaded.not_valid_before_utc,
        not_after=loaded.not_valid_after_utc,
        certificate=der,
        csr_sha256="c" * 64,
        signer=signer_of(service),
        grant_sequence=grant,
        requester=None,
    )
    return replace(event, **overrides)


def refused(signer: str, *, grant: int) -> LeafRefused:
    """Return a refusal."""
    return LeafRefused(
        request_id="r-refused",
        identity=factories.service_uri("web"),
        code="uri_count",
        message="CSR SAN contains an invalid number of URIs: 2",
        signer=signer,
        grant_sequence=grant,
        requester="UABC",
    )


def counted(signer: str, *, grant: int) -> LeafRefusalsCounted:
    """Return refusals that were summed."""
    return LeafRefusalsCounted(
        signer=signer,
        grant_sequence=grant,
        since=NOW,
        until=NOW + timedelta(minutes=1),
        counts=(
            RefusalCount(code="malformed", requester="UABC", count=70),
            RefusalCount(code="too_large", requester=None, count=3),
        ),
    )


class WholeLedger:
    """Entries one after the other, each as well-formed as it is asked to be."""

    def __init__(self, *, tick: timedelta = timedelta(seconds=1)) -> None:
        self._tick = tick  # of the writers' clock, from one event to the next
        self.stored: list[Stored] = []
        self.authority = 0  # last sequence on `authority`
        self.term = 0
        self.grants: dict[str, int] = {}
        self._ids = 0

    @property
    def last(self) -> int:
        """The last sequence."""
        return len(self.stored)

    def stamp(
        self, event: AnyEvent, *, event_id: str | None = None, time: datetime | None = None
    ) -> NewEvent:
        """Return an event with the next id."""
        self._ids += 1
        return NewEvent(
            id=event_id or ulid(self._ids),
            source="/caledger/dc1/test/n1",
            subject="test",
            time=time or NOW + self._tick * self._ids,
            event=event,
            correlation_id="c0ffee",
        )

    def raw(self, subject: str, data: bytes) -> int:
        """Store bytes; returns their sequence."""
        sequence = self.last + 1
        self.stored.append(
            Stored(
                sequence=sequence,
                subject=subject,
                stored=NOW + timedelta(milliseconds=sequence),
                data=data,
            )
        )
        if subject == SUBJECTS.authority:
            self.authority = sequence
        return sequence

    def decide(
        self,
        *events: AnyEvent | NewEvent,
        term: int | None = None,
        expected: int | None = None,
        messages: int | None = None,
    ) -> int:
        """Store one authority entry; returns its sequence."""
        return self.raw(
            SUBJECTS.authority,
            encode_entry(
                [self._stamped(event) for event in events],
                term=term if term is not None else self.term,
                expected_sequence=expected if expected is not None else self.authority,
                messages=messages,
            ),
        )

    def acquire(self, node: str = "n1", *, term: int | None = None) -> int:
        """Store that a node leads."""
        self.term = term if term is not None else self.term + 1
        return self.decide(LeadershipAcquired(node=node, term=self.term, lease_revision=1))

    def release(self, node: str = "n1") -> int:
        """Store that nobody leads."""
        return self.decide(LeadershipReleased(node=node, term=self.term, reason="shutdown"))

    def assign(
        self,
        table: Sequence[Assignment],
        *,
        withdrawn: Sequence[str] = (),
        grants: bool = True,
        messages: int | None = None,
    ) -> int:
        """Store the table of signers, all given their grants anew, with the grants' messages."""
        event = SignersAssigned(
            assignments=tuple(table),
            granted=tuple(each.signer for each in table),
            withdrawn=tuple(withdrawn),
            reason="rebalanced",
        )
        count = 1 + len(table) + len(withdrawn)
        sequence = self.decide(event, messages=messages or count)
        for each in table if grants else ():
            self.grants[each.signer] = self.grant(each.signer, GrantGiven(assignment=each))
        for signer in withdrawn if grants else ():
            self.grant(signer, GrantWithdrawn(signer=signer, reason="lost"))
            self.grants.pop(signer, None)
        return sequence

    def grant(self, signer: str, event: AnyEvent | NewEvent) -> int:
        """Store a message on a signer's grants."""
        return self.raw(SUBJECTS.grant(signer), encode_entry([self._stamped(event)]))

    def leaves(self, signer: str, *events: AnyEvent | NewEvent) -> int:
        """Store what a signer did."""
        return self.raw(
            SUBJECTS.leaves(signer), encode_entry([self._stamped(event) for event in events])
        )

    def issue(self, service: str = "web", /, **overrides: Any) -> int:
        """Store one leaf, by the signer that may; `overrides` as `leaf` takes them."""
        signer = signer_of(service)
        overrides.setdefault("grant", self.grants[signer])
        overrides.setdefault("serial", factories.SERIAL + 1000 + self.last)
        return self.leaves(signer, leaf(service, **overrides))

    def begin(self) -> None:
        """Store all that comes before the first leaf: sequences 1 to 5."""
        self.acquire()
        self.decide(*authority_events())
        self.assign(halves())

    def replaced(self, sequence: int, data: bytes) -> list[Stored]:
        """Return a copy with other bytes at one sequence."""
        copy = list(self.stored)
        copy[sequence - 1] = replace(copy[sequence - 1], data=data)
        return copy

    def _stamped(self, event: AnyEvent | NewEvent) -> NewEvent:
        return event if isinstance(event, NewEvent) else self.stamp(event)


def small_ledger(*, tick: timedelta = timedelta(seconds=1)) -> WholeLedger:
    """Return a ledger with events of every type, and nothing wrong with it."""
    ledger = WholeLedger(tick=tick)
    ledger.begin()
    for number, name in enumerate(("web", "api", "db", "billing.eu", "ütf 8")):
        ledger.issue(name, request_id=f"r-{number}")
    ledger.issue("web")
    web = ledger.grants[EVEN]
    ledger.leaves(EVEN, refused(EVEN, grant=web), counted(EVEN, grant=web))
    ledger.release()
    ledger.acquire("n2")
    *_, key, _, _, renewed = authority_events(signing_key=3)
    ledger.decide(key, renewed)
    ledger.assign(halves(signing_key=3))
    ledger.issue("api", request_id="r-after", signing_key=3)
    ledger.assign([assignment(EVEN, range(PARTITIONS), signing_key=3)], withdrawn=[ODD])
    ledger.leaves(
        EVEN,
        *(
            leaf(
                name,
                grant=ledger.grants[EVEN],
                serial=factories.SERIAL + 5000 + number,
                signing_key=3,
                signer=EVEN,
                request_id="r-last",
            )
            for number, name in enumerate(("web", "api", "db"))
        ),
    )
    return ledger
