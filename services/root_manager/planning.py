"""What a configuration would change, and what stands against it: pure, nothing is appended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from events.authority import CAConfig
from events.base import Struct
from projections.authority import AuthorityState
from services.root_manager import rotation

Effect = Literal["initialise", "nothing", "configure", "rotate"]

ROOT_FIELDS: Final = (
    "private_key_type",
    "private_key_bits",
    "given_key_id",
    "root_certificates",
)
"""What makes another root of it, as in Consul's built-in provider (section 1.6)."""


class Plan(Struct):
    """What `config.set` would do."""

    effect: Effect
    changes: tuple[str, ...]  # fields that differ
    leaf_signer_changes: bool  # without another root
    problem: str | None  # why it would be refused
    crossed: bool  # the new root is signed by the old one


def plan(
    state: AuthorityState, config: CAConfig, *, force: bool = False, rotate: bool = False
) -> Plan:
    """Return what a configuration leads to; `rotate`: to a new root even if nothing changes."""
    if state.configuration is None:
        return Plan(
            effect="initialise", changes=(), leaf_signer_changes=False, problem=None, crossed=False
        )
    before = state.configuration.config
    changes = tuple(changed_fields(before, config))
    other_root = rotate or any(field in changes for field in ROOT_FIELDS)
    effect: Effect = "rotate" if other_root else "configure" if changes else "nothing"
    active = state.active_root
    problem = None
    if other_root and active is not None and not force:
        problem = rotation.crossing_problem(active.published, config)
    return Plan(
        effect=effect,
        changes=changes,
        leaf_signer_changes=not other_root and "leaf_signer" in changes,
        problem=f"{rotation.NO_CROSS_SIGNING} ({problem})" if problem is not None else None,
        crossed=other_root and active is not None and not force,
    )


def changed_fields(before: CAConfig, after: CAConfig) -> Iterator[str]:
    """Yield the names of the fields that differ."""
    for field in CAConfig.__struct_fields__:
        if getattr(before, field) != getattr(after, field):
            yield field
