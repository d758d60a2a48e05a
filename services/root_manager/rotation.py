"""A new root takes over in two appends: trusted first, then signing (architecture, section 5).

Between the two the ledger says that a rotation is on its way; whoever leads then finishes it with
the same steps, or gives it up.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, Literal

import structlog
from msgspec.structs import replace

from events.authority import CAConfig, RootPublished, RotationAborted, RotationStarted
from events.base import Struct
from projections.authority import AuthorityState
from services.breakpoints import reached
from services.keys.interface import PrivateKey
from services.pki import certificates
from services.refusals import RefusedError
from services.root_manager.commands import AbortRotation, Activate, StartRotation
from services.root_manager.decide import Acting
from services.root_manager.expiry import root_ends
from services.root_manager.tools import Tools, Turn, moved_on

NO_CROSS_SIGNING: Final = (
    "The current CA Provider does not support cross-signing. You can try again with "
    "ForceWithoutCrossSigningSet but this may cause disruption - see documentation for more."
)  # Consul's text (section 3.10)

log = structlog.get_logger()


class NewRoot(Struct):
    """A rotation as it was asked for."""

    based_on: int  # sequence of the configuration that was looked at
    config: CAConfig
    given: PrivateKey | None = None
    force_without_cross_signing: bool = False
    crossed: bool  # the new root is signed by the old one
    reason: Literal["configured", "asked"]
    wait_seconds: float = 0.0  # for verifiers to take the new root in, beyond its publication
    request_id: str | None = None
    requester: str | None = None


class Rotations:
    """Starts, finishes and gives up rotations."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def start(self, acting: Acting, new: NewRoot) -> bool:
        """Publish a new root; return whether it was, or whether the ledger has moved on.

        Raises RefusedError, KeyStoreError, CertificateError.
        """
        tools = self._tools
        before = tools.state.active_root
        made = await tools.ceremony.root(tools.names, new.config, given=new.given)
        root = made.root
        known = known_problem(tools.state, root_id=root.root_id, key_id=root.key_id)
        if known is not None:
            raise RefusedError("conflict", known)
        if before is not None and new.crossed:
            root = replace(
                root, cross_signed=await tools.ceremony.cross_signed(root, before.published)
            )
        now = tools.clock.now()
        started = RotationStarted(
            root_id=root.root_id,
            reason=new.reason,
            config=new.config,
            force_without_cross_signing=new.force_without_cross_signing,
            activate_at=activation(root.not_before, new.wait_seconds, now),
            request_id=new.request_id,
            requester=new.requester,
        )
        reached("rotation.made")
        if not await tools.carry_out(
            acting,
            StartRotation(based_on=new.based_on, key=made.key, started=started, root=root),
        ):
            return False
        reached("rotation.started")
        log.info("a new root is trusted", root=root.root_id, activate_at=str(started.activate_at))
        return True

    async def go_on(self, turn: Turn) -> None:
        """Finish the rotation that is on its way, if it is time.

        The bundle with the new root must be out before. Raises KeyStoreError.
        """
        tools = self._tools
        rotation = tools.state.rotation
        now = tools.clock.now()
        if rotation is None or now < rotation.started.activate_at:
            return
        started = rotation.started
        published = tools.state.roots[started.root_id]
        if root_ends(published) <= now:
            await self.abort(turn.acting, "the new root expired before it could become active")
            return
        root = published.published
        leaf_signer = await tools.ceremony.leaf_signer(tools.names, started.config, root)
        reached("rotation.leaf_signer_made")
        command = Activate(root_id=root.root_id, leaf_signer=leaf_signer, now=now, alive=turn.alive)
        if await tools.carry_out(turn.acting, command):
            reached("rotation.activated")
            log.info("CA rotated to new root under provider", root=root.root_id, provider="consul")

    async def abort(
        self,
        acting: Acting,
        reason: str,
        *,
        request_id: str | None = None,
        requester: str | None = None,
    ) -> None:
        """Take the published root back.

        Raises RefusedError `conflict` where there is none, or somebody else leads by now.
        """
        rotation = self._tools.state.rotation
        if rotation is None:
            raise moved_on()
        aborted = RotationAborted(
            root_id=rotation.started.root_id,
            reason=reason,
            request_id=request_id,
            requester=requester,
        )
        if not await self._tools.carry_out(acting, AbortRotation(aborted=aborted)):
            raise moved_on()
        reached("rotation.aborted")
        log.warning("a rotation was given up", root=aborted.root_id, reason=reason)


def activation(not_before: datetime, wait_seconds: float, now: datetime) -> datetime:
    """Return when a new root is to become active: once verifiers whose clocks are behind take it.

    Those that are made here begin so much earlier; one that is given may begin now.
    """
    return max(now + timedelta(seconds=wait_seconds), not_before + certificates.LEAF_BACKDATE)


def crossing_problem(root: RootPublished, config: CAConfig) -> str | None:
    """Say why no root can be signed across by this one; None: one can.

    OpenSSL and GnuTLS refuse the chain otherwise.
    """
    allowed = certificates.cas_allowed_below((root.certificate, *root.chain))
    needed = cas_to_cross(config)
    if allowed is not None and allowed < needed:
        return (
            f"root {root.root_id} has path length {allowed}, or one above it allows no more, and "
            f"it takes {needed} to sign across"
        )
    return None


def cas_to_cross(config: CAConfig) -> int:
    """Return how many CAs come below a root that signs another (RFC 5280, 4.2.1.9).

    The new root, and an intermediate where one signs leaves: its path length must allow them.
    """
    return 2 if config.leaf_signer == "intermediate" else 1


def expires_too_soon(not_after: datetime, config: CAConfig, now: datetime) -> bool:
    """Say whether a root would expire before the first leaves below it do."""
    return not_after < now + timedelta(seconds=config.leaf_cert_ttl_seconds)


def known_problem(
    state: AuthorityState, *, root_id: str | None = None, key_id: str | None = None
) -> str | None:
    """Say why a root cannot be a new one: it is there already, or its key is; None: it can."""
    gone = state.pruned.get(root_id) if root_id is not None else None
    if root_id in state.roots or (gone is not None and not gone.taken_back):
        return f"root {root_id} is or was a root here"
    for trusted in state.roots.values():
        if trusted.published.key_id == key_id:
            return (
                f"root {trusted.published.root_id}, which is still trusted, has the same key: "
                "its revocation list and the new root's could not be told apart; give another key"
            )
    return None
