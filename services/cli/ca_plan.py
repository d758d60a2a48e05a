"""Plans and outcomes of the CA manager, in words for people."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import msgspec

from services.cli.administering import option_for
from services.outcomes import Outcome, Planned
from services.wording import counted, moment

_EFFECTS: Final = {
    "initialise": "the first authority is made",
    "nothing": "nothing would change",
    "configure": "the configuration changes, the root stays",
    "rotate": "rotation to another root",
}
_VALUE_CHARS_MAX: Final = 60
_IDENTITIES_SHOWN: Final = 10


def lines(planned: Planned) -> Iterator[str]:
    """Yield what a plan says; of one that is refused, what was asked for and why not."""
    refused = planned.problem is not None
    yield f"plan: {_EFFECTS[planned.effect]}{', REFUSED' if refused else ''}"
    for change in planned.changes:
        yield f"  change   {change.key}: {_value(change.before)} -> {_value(change.after)}"
    if planned.problem is not None:
        yield f"  REFUSED  {planned.problem_code}: {planned.problem}"
        if (hint := option_for(planned.problem)) is not None:
            yield f"           {hint}"
        return
    if planned.effect != "nothing":
        yield from (f"  then     {text}" for text in planned.effects)
    if planned.prune_after is not None:
        yield (
            f"  pruned   the old root, not before {moment(planned.prune_after)}, and not before "
            "its last leaf has expired"
        )
    for verifier in planned.verifiers:
        yield (
            f"  holding {verifier.holds}: live leaves {_accepted(verifier.live_leaves)}, "
            f"new leaves {_accepted(verifier.new_leaves)}"
        )
    yield from (f"  WARNING  {text}" for text in planned.warnings)


def outcome(told: Outcome, *, force: bool = False) -> Iterator[str]:
    """Yield what a command came to; `force`: it was said."""
    root = told.root_id
    match told.outcome:
        case "configured":
            yield f"Configuration updated! ModifyIndex {told.modify_index}"
        case "rotated":
            yield f"rotated: root {root} is active, ModifyIndex {told.modify_index}"
        case "rotating":
            yield f"rotating: root {root} is trusted, and signs from {_at(told.activate_at)} on"
            yield "until then it can be taken back: caledger ca rotate --abort"
        case "aborted":
            yield f"the rotation was given up; root {root} stays active"
        case "pruned" | "would be pruned":
            yield from _pruned(told, force=force)
        case "done":
            yield f"this was done before; state {told.state}, ModifyIndex {told.modify_index}"
        case "revoked" if told.live_leaves is None:
            yield "these were revoked before"
        case "would be revoked" | "revoked":
            plan = "would be" if told.outcome == "would be revoked" else None
            yield f"{_leaves(told)} {plan or _were(told)} revoked"
            yield from _identities(told)
        case other:
            yield other


def _pruned(told: Outcome, *, force: bool) -> Iterator[str]:
    root = told.root_id
    if told.outcome == "pruned":
        cut_off = f"; {_leaves(told)} {_were(told)} cut off" if told.live_leaves else ""
        yield f"root {root} is trusted no more{cut_off}"
        yield from (f"nor is root {each}, which signed it" for each in told.also or ())
        return
    if not told.live_leaves:
        yield f"root {root} can be pruned: no live leaf would be cut off"
    elif force:
        yield f"root {root} can be pruned: {_leaves(told)} would be cut off"
    else:
        yield f"root {root} can be pruned with --force only: {_leaves(told)} would be cut off"
    yield from (f"root {each} would go with it, as it signed it" for each in told.also or ())


def _leaves(told: Outcome) -> str:
    return counted(told.live_leaves or 0, "live leaf", "live leaves")


def _were(told: Outcome) -> str:
    return "was" if told.live_leaves == 1 else "were"


def _at(text: str | None) -> str:
    """Write a moment of an answer as all are written."""
    try:
        return moment(datetime.fromisoformat(text or ""))
    except ValueError:
        return text or "an unknown moment"


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
        return counted(certificates, "certificate")
    return value if len(value) <= _VALUE_CHARS_MAX else f"{value[:_VALUE_CHARS_MAX]}..."
