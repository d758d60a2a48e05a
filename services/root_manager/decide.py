"""What the CA manager decides: pure, from the fold, the lease that it acts under and a command."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from events.authority import (
    CAConfigured,
    IntermediateInstalled,
    KeyCreated,
    RootActivated,
    RootPublished,
)
from events.base import Struct, Token
from events.catalogue import AuthorityEvent
from events.signers import Assignment, GrantGiven, GrantWithdrawn, SignersAssigned
from projections.authority import AuthorityState, Leader
from services.root_manager.assignment import SignerRun, assign


class Acting(Struct):
    """The lease that a root-manager acts under: its own node's, once its term is recorded."""

    node: Token
    term: Annotated[int, Meta(ge=1)]


class Initialise(Struct):
    """Make the authority what it is first; everything in it has been made already."""

    configured: CAConfigured
    root_key: KeyCreated
    signing_key: KeyCreated
    root: RootPublished
    intermediate: IntermediateInstalled


class AssignSigners(Struct):
    """Let every partition have a signer that is alive."""

    alive: tuple[SignerRun, ...]


Command = Initialise | AssignSigners


class Decision(Struct):
    """What to append, in one atomic append; nothing where there are no events."""

    events: tuple[AuthorityEvent, ...] = ()
    grants: tuple[GrantGiven | GrantWithdrawn, ...] = ()  # in the order of `SignersAssigned`


NOTHING = Decision()


def decide(state: AuthorityState, acting: Acting, command: Command) -> Decision:
    """Decide what a command leads to.

    Nothing, whatever the command, unless the ledger says that the lease's node leads under the
    lease's very term: only the *first* append of a deposed leader fails by its condition; once it
    has folded again, this alone stops it (architecture 3.1, rule 4).
    """
    if not leads(state, acting):
        return NOTHING
    match command:
        case Initialise():
            return _initialise(state, command)
        case AssignSigners():
            return _assign(state, command)


def leads(state: AuthorityState, acting: Acting) -> bool:
    """Tell whether the ledger says what the lease says."""
    return state.leader == Leader(node=acting.node, term=acting.term)


def _initialise(state: AuthorityState, command: Initialise) -> Decision:
    if state.configuration is not None:
        return NOTHING
    return Decision(
        events=(
            command.configured,
            command.root_key,
            command.signing_key,
            command.root,
            RootActivated(root_id=command.root.root_id),
            command.intermediate,
        )
    )


def _assign(state: AuthorityState, command: AssignSigners) -> Decision:
    if state.configuration is None or state.issuer_key_id is None:
        return NOTHING
    current = {signer: grant.assignment for signer, grant in state.signers.items()}
    table = assign(
        current,
        command.alive,
        signing_key_id=state.issuer_key_id,
        csr_max_per_second=state.configuration.config.csr_max_per_second,
    )
    granted = [assignment for assignment in table if current.get(assignment.signer) != assignment]
    withdrawn = sorted(current.keys() - {assignment.signer for assignment in table})
    if not granted and not withdrawn:
        return NOTHING
    return Decision(
        events=(
            SignersAssigned(
                assignments=table,
                granted=tuple(assignment.signer for assignment in granted),
                withdrawn=tuple(withdrawn),
                reason=_reason(current, granted, withdrawn),
            ),
        ),
        grants=(
            *(GrantGiven(assignment=assignment) for assignment in granted),
            *(
                GrantWithdrawn(signer=signer, reason=_why(current[signer], command.alive))
                for signer in withdrawn
            ),
        ),
    )


def _reason(
    current: dict[str, Assignment], granted: list[Assignment], withdrawn: list[str]
) -> Literal["joined", "left", "rebalanced", "authority_changed"]:
    if any(assignment.signer not in current for assignment in granted):
        return "joined"
    if withdrawn:
        return "left"
    if any(current[a.signer].partitions != a.partitions for a in granted):
        return "rebalanced"
    return "authority_changed"


def _why(gone: Assignment, alive: tuple[SignerRun, ...]) -> Literal["lost", "stopped", "replaced"]:
    if any(run.signer == gone.signer and run.stopping for run in alive):
        return "stopped"
    place = (gone.node, gone.slot)
    if any((run.node, run.slot) == place and run.signer != gone.signer for run in alive):
        return "replaced"
    return "lost"
