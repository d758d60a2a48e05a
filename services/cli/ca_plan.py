"""Plans and outcomes of the CA manager, in words for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from services.outcomes import Outcome, Planned

_EFFECTS: Final = {
    "initialise": "the first authority is made",
    "nothing": "nothing would change",
    "configure": "the configuration changes, the root stays",
    "rotate": "rotation to another root",
}
_VALUE_CHARS_MAX: Final = 60
_IDENTITIES_SHOWN: Final = 10


def lines(planned: Planned) -> Iterator[str]:
    """Yield what a plan says."""
    yield f"plan: {_EFFECTS[planned.effect]}"
    for change in planned.changes:
        yield f"  change   {change.key}: {_value(change.before)} -> {_value(change.after)}"
    if planned.effect != "nothing":
        yield from (f"  then     {text}" for text in planned.effects)
    if planned.prune_after is not None:
        yield f"  pruned   the old root, not before {planned.prune_after:%Y-%m-%d %H:%M:%SZ}"
    for verifier in planned.verifiers:
        yield (
            f"  holding {verifier.holds}: live leaves {_accepted(verifier.live_leaves)}, "
            f"new leaves {_accepted(verifier.new_leaves)}"
        )
    yield from (f"  WARNING  {text}" for text in planned.warnings)
    if planned.problem is not None:
        yield f"  REFUSED  {planned.problem_code}: {planned.problem}"


def outcome(told: Outcome) -> Iterator[str]:
    """Yield what a command came to."""
    root = told.root_id
    leaves = told.live_leaves
    match told.outcome:
        case "configured":
            yield f"Configuration updated! ModifyIndex {told.modify_index}"
        case "rotated":
            yield f"rotated: root {root} is active, ModifyIndex {told.modify_index}"
        case "rotating":
            yield f"rotating: root {root} is trusted, and signs from {told.activate_at} on"
            yield "until then it can be taken back: caledger ca rotate --abort"
        case "aborted":
            yield f"the rotation was given up; root {root} stays active"
        case "pruned":
            yield f"root {root} is trusted no more" + (
                f"; {leaves} live leaves were cut off" if leaves else ""
            )
        case "would be pruned":
            yield f"root {root} can be pruned: {leaves} live leaves would be cut off"
        case "done":
            yield f"this was done before; state {told.state}, ModifyIndex {told.modify_index}"
        case "revoked" if leaves is None:
            yield "these were revoked before"
        case "would be revoked" | "revoked":
            verb = "were" if told.outcome == "revoked" else "would be"
            yield f"{leaves} live leaves {verb} revoked"
            yield from _identities(told)
        case other:
            yield other


def _identities(told: Outcome) -> Iterator[str]:
    identities = told.identities or {}
    for identity, count in list(identities.items())[:_IDENTITIES_SHOWN]:
        yield f"  {count:6}  {identity}"
    if len(identities) > _IDENTITIES_SHOWN:
        yield f"          and {len(identities) - _IDENTITIES_SHOWN} more identities, at least"


def _accepted(does: bool) -> str:
    return "accepted" if does else "REFUSED"


def _value(value: Any) -> str:
    """Write a value on one line."""
    if value is None:
        return "none"
    if not isinstance(value, str):
        return msgspec.json.encode(value).decode()
    if certificates := value.count("-----BEGIN CERTIFICATE-----"):
        return f"{certificates} certificate{'s' if certificates > 1 else ''}"
    return value if len(value) <= _VALUE_CHARS_MAX else f"{value[:_VALUE_CHARS_MAX]}..."
