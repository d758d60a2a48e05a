"""What a configuration would change, and what stands against it: pure, nothing is appended.

`config.set` does what is said here, and `config.plan` only says it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from events.authority import CAConfig
from events.base import Struct
from events.leaves import RefusalCode
from projections.authority import AuthorityState, Root
from services.outcomes import Effect
from services.pki import certificates
from services.root_manager import rotation
from services.root_manager.configuration import Wanted
from services.root_manager.expiry import root_ends
from services.wording import moment

ROOT_FIELDS: Final = (
    "private_key_type",
    "private_key_bits",
    "given_key_id",
    "root_certificates",
)
"""What makes another root of it, as in Consul's built-in provider (section 1.6)."""


class Problem(Struct):
    """Why a command is refused."""

    code: RefusalCode
    message: str


class Plan(Struct):
    """What `config.set` would do."""

    effect: Effect
    changes: tuple[str, ...] = ()  # fields that differ
    leaf_signer_changes: bool = False  # without another root
    problem: Problem | None = None
    crossed: bool = False  # the new root is signed by the old one


def plan(state: AuthorityState, wanted: Wanted, *, now: datetime, rotate: bool = False) -> Plan:
    """Return what a configuration leads to; `rotate`: to a new root even if nothing changes."""
    if state.configuration is None:
        return Plan(effect="initialise", problem=_not_now(state, wanted))
    config = wanted.config
    changes = tuple(changed_fields(state.configuration.config, config))
    other_root = rotate or any(field in changes for field in ROOT_FIELDS)
    active = state.active_root
    problem = _not_now(state, wanted)
    if problem is None and active is not None:
        if other_root:
            problem = _of_another_root(state, wanted, active, now, rotate=rotate)
        else:
            problem = _of_this_root(state, active, state.configuration.config, config, now)
    return Plan(
        effect="rotate" if other_root else "configure" if changes else "nothing",
        changes=changes,
        leaf_signer_changes=not other_root and "leaf_signer" in changes,
        problem=problem,
        crossed=other_root and active is not None and _is_crossed(wanted, active, now),
    )


def changed_fields(before: CAConfig, after: CAConfig) -> Iterator[str]:
    """Yield the names of the fields that differ."""
    for field in CAConfig.__struct_fields__:
        if getattr(before, field) != getattr(after, field):
            yield field


def _not_now(state: AuthorityState, wanted: Wanted) -> Problem | None:
    """Say why nothing can be configured now, whatever it is (Consul's texts, 3.1 and 3.9)."""
    if wanted.modify_index not in (0, state.configured):
        return Problem(code="conflict", message="ModifyIndex did not match existing")
    if state.ca_state == "RECONFIGURING":
        return Problem(code="busy", message=f'CA is already in state "{state.ca_state}"')
    return None


def _of_another_root(
    state: AuthorityState, wanted: Wanted, active: Root, now: datetime, *, rotate: bool
) -> Problem | None:
    """Say why no rotation to this can begin."""
    given = wanted.config.root_certificates
    if rotate and (given or wanted.config.given_key_id is not None):
        return Problem(
            code="bad_config",
            message="the root's key was given: set a configuration with another key, or without "
            "one",
        )
    known = rotation.known_problem(
        state,
        root_id=certificates.root_id(given[0]) if given else None,
        key_id=wanted.config.given_key_id,
    )
    if known is not None:
        return Problem(code="conflict", message=known)
    if (late := _too_late(wanted, now)) is not None:
        return Problem(code="bad_config", message=late)
    if not _is_crossed(wanted, active, now):
        return None
    crossing = rotation.crossing_problem(active.published, wanted.config)
    if crossing is not None:
        return Problem(code="bad_config", message=f"{rotation.NO_CROSS_SIGNING} ({crossing})")
    return None


def _is_crossed(wanted: Wanted, active: Root, now: datetime) -> bool:
    """Say whether the old root signs the new one: where it has expired, nobody could use that."""
    return not wanted.force_without_cross_signing and root_ends(active) > now


def _too_late(wanted: Wanted, now: datetime) -> str | None:
    """Say why a root would not live until the leaves below it have expired."""
    config = wanted.config
    end = now + timedelta(seconds=config.root_cert_ttl_seconds)
    if config.root_certificates:
        end = certificates.end_of_chain(*config.root_certificates)
    begins = now + timedelta(seconds=wanted.wait_seconds)
    if wanted.wait_seconds > 0 and rotation.expires_too_soon(end, config, begins):
        return (
            f"the new root would be active at {moment(begins)} and expires at {moment(end)}, "
            "before its leaves do: wait for a shorter time"
        )
    return None


def _breaks_the_bridge(
    state: AuthorityState, root: Root, before: CAConfig, config: CAConfig
) -> str | None:
    """Say why who is late with the bundle would lose the way: an intermediate is one CA more."""
    by = state.roots.get(root.crossed_by or "")
    if by is None or not config.leaf_signer == "intermediate" != before.leaf_signer:
        return None
    crossing = rotation.crossing_problem(by.published, config)
    if crossing is None:
        return None
    return (
        f"verifiers that have the bundle of before would refuse new leaves ({crossing}): keep "
        "LeafSigner at root until the root before is pruned"
    )


def _of_this_root(
    state: AuthorityState, root: Root, before: CAConfig, config: CAConfig, now: datetime
) -> Problem | None:
    """Say why this cannot be changed under the root that there is.

    The same would be refused of a root that is given anew. What was so before is no reason not to
    change something else.
    """
    end = root_ends(root)
    if config.leaf_signer != before.leaf_signer and end <= now:
        return Problem(
            code="bad_config",
            message=f"the active root expired at {moment(end)}: rotate to another one",
        )
    allowed = certificates.cas_allowed_below((root.published.certificate, *root.published.chain))
    if config.leaf_signer == "intermediate" != before.leaf_signer and (
        allowed is not None and allowed < 1
    ):
        return Problem(
            code="bad_config",
            message="the path length of the root, or of one above it, allows no intermediate below "
            "it (keep LeafSigner at root, or give another root)",
        )
    if (short := _breaks_the_bridge(state, root, before, config)) is not None:
        return Problem(code="bad_config", message=short)
    longer = config.leaf_cert_ttl_seconds > before.leaf_cert_ttl_seconds
    if longer and config.root_certificates and rotation.expires_too_soon(end, config, now):
        return Problem(
            code="bad_config",
            message=f"the root, or one above it, expires at {moment(end)}, before its leaves",
        )
    return None
