"""Commands that come again under their request id: carried out once, told again; pure."""

from __future__ import annotations

from collections.abc import Callable, Collection

from events.authority import CAConfigured, RootPruned, RotationAborted, RotationStarted
from events.revocation import LeavesRevoked
from projections.authority import AuthorityState, Commanded
from services.refusals import RefusedError
from services.root_manager.configuration import Wanted
from services.root_manager.revocation import Chosen

LedTo = Callable[[Commanded], bool]
"""Says whether an event is what a command leads to."""


def is_done(state: AuthorityState, request_id: str | None, led_to: LedTo) -> bool:
    """Say whether the command of this id was carried out.

    Raises RefusedError `request_id_conflict` where that was another one: what this one asks for was
    not done, and must not be told to be.
    """
    event = state.requests.get(request_id) if request_id is not None else None
    if event is not None and not led_to(event):
        raise RefusedError(
            "request_id_conflict", f"request id {request_id} is that of another command"
        )
    return event is not None


def configured(wanted: Wanted) -> LedTo:
    """Return what setting this configuration leads to, at once or by a rotation."""

    def led_to(event: Commanded) -> bool:
        match event:
            case CAConfigured() | RotationStarted(reason="configured"):
                return (event.config, event.force_without_cross_signing) == (
                    wanted.config,
                    wanted.force_without_cross_signing,
                )
            case _:
                return False

    return led_to


def was_configured(state: AuthorityState, request_id: str | None) -> bool:
    """Say whether a command of this id set a configuration, whichever."""
    event = state.requests.get(request_id) if request_id is not None else None
    match event:
        case CAConfigured() | RotationStarted(reason="configured"):
            return True
        case _:
            return False


def rotated(force_without_cross_signing: bool) -> LedTo:
    """Return what telling the CA to rotate leads to."""

    def led_to(event: Commanded) -> bool:
        return (
            isinstance(event, RotationStarted)
            and event.reason == "asked"
            and event.force_without_cross_signing == force_without_cross_signing
        )

    return led_to


def aborted(event: Commanded) -> bool:
    """Say whether this is what giving up a rotation leads to."""
    return isinstance(event, RotationAborted)


def pruned(root_ids: Collection[str]) -> LedTo:
    """Return what pruning these roots leads to."""
    return lambda event: isinstance(event, RootPruned) and event.root_id in root_ids


def revoked(chosen: Chosen) -> LedTo:
    """Return what revoking these leaves leads to."""
    words = chosen.words()
    return lambda event: isinstance(event, LeavesRevoked) and event.selected_by == words
