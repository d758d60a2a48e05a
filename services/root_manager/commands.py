"""What the CA manager is told to do, or finds that is due; what has to be made is made already."""

from __future__ import annotations

from events.authority import (
    CAConfigured,
    IntermediateInstalled,
    IntermediateRequested,
    KeyCreated,
    KeyDestroyed,
    KeyShared,
    LeafSignerSelected,
    RootPruned,
    RootPublished,
    RotationAborted,
    RotationStarted,
)
from events.base import Moment, Struct
from events.revocation import CrlIssued, LeavesRevoked
from services.root_manager.assignment import SignerRun


class LeafSigner(Struct):
    """What is to sign leaves: a new intermediate with its new key, or the root itself."""

    selected: IntermediateInstalled | LeafSignerSelected
    key: KeyCreated | None = None  # of the intermediate
    shared: KeyShared | None = None  # the root's, for signers


class Initialise(Struct):
    """Make the authority what it is first; everything in it has been made already."""

    configured: CAConfigured
    root_key: KeyCreated
    root: RootPublished
    leaf_signer: LeafSigner


class AssignSigners(Struct):
    """Let every partition have a signer that is alive."""

    alive: tuple[SignerRun, ...]


class Configure(Struct):
    """Change the configuration, and perhaps what signs leaves; the root stays."""

    based_on: int  # sequence of the configuration that this was made for
    configured: CAConfigured
    leaf_signer: LeafSigner | None  # None: it stays
    alive: tuple[SignerRun, ...]


class StartRotation(Struct):
    """Publish a new root, signed across by the active one: trusted from here on, not signing."""

    based_on: int
    key: KeyCreated | None  # None: it was recorded before
    started: RotationStarted
    root: RootPublished


class Activate(Struct):
    """Let the published root take over: configuration, retirement, activation, all grants."""

    root_id: str
    leaf_signer: LeafSigner
    now: Moment
    alive: tuple[SignerRun, ...]


class AbortRotation(Struct):
    """Take the published root back."""

    aborted: RotationAborted


class RequestIntermediate(Struct):
    """Begin to renew what signs leaves."""

    key: KeyCreated
    requested: IntermediateRequested


class InstallIntermediate(Struct):
    """Finish what `RequestIntermediate` began."""

    installed: IntermediateInstalled
    alive: tuple[SignerRun, ...]


class PruneRoot(Struct):
    """Trust retired roots no more."""

    pruned: tuple[RootPruned, ...]


class RecordKey(Struct):
    """A key was destroyed."""

    destroyed: KeyDestroyed


class Revoke(Struct):
    """Revoke leaves."""

    revoked: LeavesRevoked


class IssueCrl(Struct):
    """Record a revocation list; everything revoked up to `based_on` is in it."""

    issued: CrlIssued
    based_on: int


Command = (
    Initialise
    | AssignSigners
    | Configure
    | StartRotation
    | Activate
    | AbortRotation
    | RequestIntermediate
    | InstallIntermediate
    | PruneRoot
    | RecordKey
    | Revoke
    | IssueCrl
)
