"""What the CA manager decides: pure, from the fold, the lease that it acts under and a command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, assert_never

from msgspec import Meta
from msgspec.structs import replace

from events.authority import (
    CAConfig,
    KeyDestroyed,
    RootActivated,
    RootPruned,
    RootRetired,
)
from events.base import Struct, Token
from events.catalogue import AuthorityEvent
from events.revocation import LeavesRevoked
from events.signers import Assignment, GrantGiven, GrantWithdrawn, SignersAssigned
from projections.authority import AuthorityState, Leader
from services.root_manager.assignment import SignerRun, assign
from services.root_manager.commands import (
    AbortRotation,
    Activate,
    AssignSigners,
    Command,
    Configure,
    Initialise,
    InstallIntermediate,
    IssueCrl,
    LeafSigner,
    PruneRoot,
    RecordKey,
    RequestIntermediate,
    Revoke,
    StartRotation,
)


class Acting(Struct):
    """The lease that a root-manager acts under: its own node's, once its term is recorded."""

    node: Token
    term: Annotated[int, Meta(ge=1)]


class Decision(Struct):
    """What to append, in one atomic append; nothing where there are no events."""

    events: tuple[AuthorityEvent, ...] = ()
    grants: tuple[GrantGiven | GrantWithdrawn, ...] = ()  # in the order of `SignersAssigned`


NOTHING = Decision()


def decide(state: AuthorityState, acting: Acting, command: Command) -> Decision:
    """Decide what a command leads to.

    Nothing, whatever the command, unless the ledger says that the lease's node leads under the
    lease's very term: only the *first* append of a deposed leader fails by its condition; once it
    has folded again, this alone stops it (architecture 3.1, rule 4). Nothing either where the
    ledger has moved on so that the command is not about what there is any more.
    """
    if not leads(state, acting):
        return NOTHING
    match command:
        case Initialise():
            return _initialise(state, command)
        case AssignSigners():
            return _assign(state, command)
        case Configure():
            return _configure(state, command)
        case StartRotation() | Activate() | AbortRotation():
            return _rotate(state, command)
        case RequestIntermediate() | InstallIntermediate():
            return _renew(state, command)
        case PruneRoot(pruned=pruned):
            return _prune(state, pruned)
        case RecordKey(destroyed=destroyed):
            return _record_key(state, destroyed)
        case Revoke(revoked=revoked):
            return _revoke(state, revoked)
        case IssueCrl():
            return _issue_crl(state, command)
        case _:
            assert_never(command)


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
            command.root,
            RootActivated(root_id=command.root.root_id),
            *_leaf_signer(command.leaf_signer),
        )
    )


def _configure(state: AuthorityState, command: Configure) -> Decision:
    if state.configured != command.based_on or state.rotation is not None:
        return NOTHING
    signer = command.leaf_signer
    key_id = signer.selected.signing_key_id if signer is not None else state.issuer_key_id
    assigned = _assigned(state, command.configured.config, key_id, command.alive, anew=True)
    return Decision(
        events=(
            command.configured,
            *(_leaf_signer(signer) if signer is not None else ()),
            *assigned.events,
        ),
        grants=assigned.grants,
    )


def _rotate(state: AuthorityState, command: StartRotation | Activate | AbortRotation) -> Decision:
    match command:
        case StartRotation(key=key, started=started, root=root):
            if state.configured != command.based_on or state.rotation is not None:
                return NOTHING
            return Decision(events=(started, *((key,) if key is not None else ()), root))
        case Activate():
            return _activate(state, command)
        case AbortRotation(aborted=aborted):
            if state.rotation is None or state.rotation.started.root_id != aborted.root_id:
                return NOTHING
            pruned = RootPruned(root_id=aborted.root_id, reason="aborted")
            return Decision(events=(aborted, pruned))
        case _:
            assert_never(command)


def _activate(state: AuthorityState, command: Activate) -> Decision:
    rotation, configuration = state.rotation, state.configuration
    if rotation is None or configuration is None or rotation.started.root_id != command.root_id:
        return NOTHING
    started, before = rotation.started, state.active_root
    selected = command.leaf_signer.selected
    assigned = _assigned(state, started.config, selected.signing_key_id, command.alive, anew=True)
    retired = (
        (RootRetired(root_id=before.published.root_id, rotated_out_at=command.now),)
        if before is not None
        else ()
    )
    return Decision(
        events=(
            replace(
                configuration,
                config=started.config,
                force_without_cross_signing=started.force_without_cross_signing,
                request_id=None,  # that is in `rotation.started`
            ),
            *retired,
            RootActivated(root_id=command.root_id),
            *_leaf_signer(command.leaf_signer),
            *assigned.events,
        ),
        grants=assigned.grants,
    )


def _renew(state: AuthorityState, command: RequestIntermediate | InstallIntermediate) -> Decision:
    root = state.active_root
    if state.configuration is None or root is None or state.rotation is not None:
        return NOTHING
    match command:
        case RequestIntermediate(requested=requested):
            if state.renewal is not None or requested.root_id != root.published.root_id:
                return NOTHING
            return Decision(events=(command.key, requested))
        case InstallIntermediate(installed=installed):
            renewal = state.renewal
            if renewal is None or renewal.requested.signing_key_id != installed.signing_key_id:
                return NOTHING
            assigned = _assigned(
                state, state.configuration.config, installed.signing_key_id, command.alive
            )
            return Decision(events=(installed, *assigned.events), grants=assigned.grants)
        case _:
            assert_never(command)


def _prune(state: AuthorityState, pruned: tuple[RootPruned, ...]) -> Decision:
    """Prune all of them, or none."""
    rotation = state.rotation
    for one in pruned:
        root = state.roots.get(one.root_id)
        if root is None or root.active:
            return NOTHING
        if rotation is not None and rotation.started.root_id == one.root_id:
            return NOTHING
    return Decision(events=pruned)


def _record_key(state: AuthorityState, destroyed: KeyDestroyed) -> Decision:
    created = state.keys.get(destroyed.key_id)
    known = created is not None and created.purpose == destroyed.purpose
    if not known and destroyed.key_id not in state.shared:
        return NOTHING
    return Decision(events=(destroyed,))


def _revoke(state: AuthorityState, revoked: LeavesRevoked) -> Decision:
    if all(leaf.serial in state.revoked.get(leaf.issuer_key_id, {}) for leaf in revoked.leaves):
        return NOTHING
    return Decision(events=(revoked,))


def _issue_crl(state: AuthorityState, command: IssueCrl) -> Decision:
    key_id = command.issued.issuer_key_id
    last = state.crls.get(key_id)
    if command.issued.number != (last.issued.number if last is not None else 0) + 1:
        return NOTHING
    if state.revoked_sequence.get(key_id, 0) > command.based_on:
        return NOTHING  # it would hide the latest revocation
    return Decision(events=(command.issued,))


def _leaf_signer(signer: LeafSigner) -> tuple[AuthorityEvent, ...]:
    made = (signer.key, signer.shared)
    return (*(event for event in made if event is not None), signer.selected)


def _assign(state: AuthorityState, command: AssignSigners) -> Decision:
    if state.configuration is None:
        return NOTHING
    return _assigned(state, state.configuration.config, state.issuer_key_id, command.alive)


def _assigned(
    state: AuthorityState,
    config: CAConfig,
    signing_key_id: str | None,
    alive: tuple[SignerRun, ...],
    *,
    anew: bool = False,
) -> Decision:
    """Return the change of grants that lets the signers who are alive sign with this key.

    `anew`: every grant is replaced, so that no leaf is committed any more that was decided on what
    was before.
    """
    if signing_key_id is None:
        return NOTHING
    current = {signer: grant.assignment for signer, grant in state.signers.items()}
    table = assign(current, alive, signing_key_id=signing_key_id, config=config)
    granted = [one for one in table if anew or current.get(one.signer) != one]
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
                GrantWithdrawn(signer=signer, reason=_why(current[signer], alive))
                for signer in withdrawn
            ),
        ),
    )


def _reason(
    current: Mapping[str, Assignment], granted: Sequence[Assignment], withdrawn: Sequence[str]
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
