"""What a line of `caledger ledger replay` tells of an event, beside what it is about."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Final, assert_never

from events.authority import (
    CAConfig,
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
from events.catalogue import AnyEvent
from events.leadership import LeadershipAcquired, LeadershipReleased
from events.leaves import LeafIssued, LeafRefusalsCounted, LeafRefused
from events.revocation import CrlIssued, LeavesRevoked
from events.signers import Assignment, GrantGiven, GrantWithdrawn, SignersAssigned
from services.pki.pem import colon_hex

RUN_DIGITS: Final = 8  # of a signer's run: the random end of a ULID tells runs apart

_WORD: Final = re.compile(r"[!#-~]+")  # ASCII that can be seen, without quotes and spaces


def word(text: str) -> str:
    """Return text as one word of a line: whatever else it holds is quoted as in JSON."""
    return text if _WORD.fullmatch(text) else _quoted(text)


def facts(event: AnyEvent) -> Iterator[str]:
    """Yield `name=value` words: what an auditor looks for in an event of this type."""
    match event:
        case LeadershipAcquired():
            yield f"lease={event.lease_revision}"
        case LeadershipReleased() | GrantWithdrawn():
            yield f"reason={event.reason}"
        case CAConfigured() | RotationStarted() | RotationAborted():
            yield from _configuration(event)
        case KeyCreated() | KeyShared() | KeyDestroyed():
            yield from _key(event)
        case RootPublished() | RootRetired() | RootPruned():
            yield from _root(event)
        case RootActivated():
            return  # its subject is the root
        case IntermediateRequested() | IntermediateInstalled() | LeafSignerSelected():
            yield from _leaf_signer(event)
        case LeavesRevoked() | CrlIssued():
            yield from _revocation(event)
        case SignersAssigned():
            yield f"reason={event.reason}"
            yield from map(_assignment, event.assignments)
            for change in ("granted", "withdrawn"):
                runs = getattr(event, change)
                if runs:
                    yield f"{change}={','.join(map(_run, runs))}"
        case GrantGiven():
            yield from _grant(event.assignment)
        case LeafIssued() | LeafRefused() | LeafRefusalsCounted():
            yield from _leaf(event)
        case _:
            assert_never(event)


def _grant(granted: Assignment) -> Iterator[str]:
    yield _assignment(granted)
    yield f"key={granted.signing_key_id}"
    yield f"rate={_rate(granted.rate_per_second)}"
    if granted.concurrent:
        yield f"concurrent_max={granted.concurrent}"


def _configuration(event: CAConfigured | RotationStarted | RotationAborted) -> Iterator[str]:
    match event:
        case CAConfigured():
            yield f"trust_domain={word(event.trust_domain)}"
            yield from _settings(event.config)
        case RotationStarted():
            yield f"reason={event.reason}"
            yield f"activate_at={_moment(event.activate_at)}"
            yield from _settings(event.config)
            yield from _requester(event)
        case RotationAborted():
            yield f"reason={_quoted(event.reason)}"
            yield from _requester(event)


def _settings(config: CAConfig) -> Iterator[str]:
    yield f"key_type={config.private_key_type}{config.private_key_bits}"
    yield f"leaf_ttl={config.leaf_cert_ttl_seconds}s"
    yield f"intermediate_ttl={config.intermediate_cert_ttl_seconds}s"
    yield f"root_ttl={config.root_cert_ttl_seconds}s"
    yield f"csr_max={_rate(config.csr_max_per_second)}"
    if config.csr_max_concurrent:
        yield f"concurrent_max={config.csr_max_concurrent}"
    yield f"leaf_signer={config.leaf_signer}"
    if config.given_key_id is not None:
        yield f"given_key={config.given_key_id}"


def _key(event: KeyCreated | KeyShared | KeyDestroyed) -> Iterator[str]:
    match event:
        case KeyCreated():
            yield f"purpose={event.purpose}"
            yield f"key={event.key_id}"
            yield f"key_type={event.key_type}{event.key_bits}"
            yield f"origin={event.origin}"
        case KeyDestroyed():
            yield f"purpose={event.purpose}"
            yield f"key={event.key_id}"
        case KeyShared():
            yield f"key={event.key_id}"


def _root(event: RootPublished | RootRetired | RootPruned) -> Iterator[str]:
    match event:
        case RootPublished():
            yield f"name={word(event.name)}"
            yield f"key={event.key_id}"
            yield f"cross_signed={'yes' if event.cross_signed is not None else 'no'}"
            yield f"until={_moment(event.not_after)}"
        case RootRetired():
            yield f"rotated_out_at={_moment(event.rotated_out_at)}"
        case RootPruned():
            yield f"reason={event.reason}"
            if event.live_leaves:
                yield f"live_leaves={event.live_leaves}"
            yield from _requester(event)


def _leaf_signer(
    event: IntermediateRequested | IntermediateInstalled | LeafSignerSelected,
) -> Iterator[str]:
    yield f"root={word(event.root_id)}"
    yield f"key={event.signing_key_id}"
    if isinstance(event, IntermediateInstalled):
        yield f"until={_moment(event.not_after)}"


def _revocation(event: LeavesRevoked | CrlIssued) -> Iterator[str]:
    match event:
        case LeavesRevoked():
            yield f"leaves={len(event.leaves)}"
            yield f"reason={event.reason}"
            yield f"selected_by={_quoted(event.selected_by)}"
            yield from _requester(event)
        case CrlIssued():
            yield f"issuer={event.issuer}"
            yield f"key={event.issuer_key_id}"
            yield f"number={event.number}"
            yield f"revoked={event.revoked}"
            yield f"until={_moment(event.next_update)}"


def _leaf(event: LeafIssued | LeafRefused | LeafRefusalsCounted) -> Iterator[str]:
    match event:
        case LeafIssued():
            yield f"serial={colon_hex(event.serial)}"
            yield f"until={_moment(event.not_after)}"
            yield from (f"dns={word(name)}" for name in event.dns)
            yield from (f"ip={word(address)}" for address in event.ip)
            yield from _asked(event)
        case LeafRefused():
            yield f"code={event.code}"
            if event.durable:
                yield "durable=yes"
            yield from _asked(event)
            yield f"message={_quoted(event.message)}"
        case LeafRefusalsCounted():
            yield f"since={_moment(event.since)}"
            yield f"until={_moment(event.until)}"
            for counted in event.counts:
                requester = "" if counted.requester is None else f":{word(counted.requester)}"
                yield f"{counted.code}{requester}={counted.count}"


def _asked(event: LeafIssued | LeafRefused) -> Iterator[str]:
    """Yield who asked, under which id, and who answered."""
    yield from _requester(event)
    if event.request_id is not None:
        yield f"request={event.request_id}"
    yield f"signer={_run(event.signer)}"


def _requester(
    event: LeafIssued
    | LeafRefused
    | LeavesRevoked
    | RootPruned
    | RotationStarted
    | RotationAborted,
) -> Iterator[str]:
    if event.requester is not None:
        yield f"requester={word(event.requester)}"


def _assignment(assignment: Assignment) -> str:
    return (
        f"signer={_run(assignment.signer)} node={assignment.node}/{assignment.slot} "
        f"partitions={len(assignment.partitions)}"
    )


def _run(signer: str) -> str:
    return signer[-RUN_DIGITS:]


def _quoted(text: str) -> str:
    return json.dumps(text).replace("\x7f", "\\u007f")


def _rate(per_second: float) -> str:
    return f"{per_second:g}/s" if per_second else "unlimited"


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
