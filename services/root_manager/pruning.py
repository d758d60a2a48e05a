"""Roots that nobody needs are trusted no more, and keys that nobody needs are destroyed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import structlog

from events.authority import KeyDestroyed, RootPruned
from projections.authority import AuthorityState, Root
from projections.issuance import LiveLeaves
from services.breakpoints import reached
from services.root_manager.commands import PruneRoot, RecordKey
from services.root_manager.decide import Acting, leads
from services.root_manager.tools import Tools, Turn

log = structlog.get_logger()


def issuers_below(state: AuthorityState, root_id: str) -> list[str]:
    """Return the keys of all that ever signed leaves under a root."""
    return [issuer.key_id for issuer in state.issuers.values() if issuer.root_id == root_id]


def is_old_enough(state: AuthorityState, root: Root, now: datetime) -> bool:
    """Say whether a retired root has waited for twice the life of a leaf (Consul, 3.13)."""
    if root.active or root.rotated_out_at is None or state.configuration is None:
        return False
    ttl = timedelta(seconds=state.configuration.config.leaf_cert_ttl_seconds)
    return now > root.rotated_out_at + 2 * ttl


def is_unused(live: LiveLeaves, root: Root) -> bool:
    """Say whether no leaf under a root is valid any more, and the index can know that.

    All of its leaves come before the entry that retired it, which replaced every grant.
    """
    return live.position >= root.retired and live.count == 0


class Pruning:
    """Prunes roots and destroys keys."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def roots(self, turn: Turn) -> None:
        """Prune what nobody needs."""
        tools = self._tools
        now = tools.clock.now()
        for root_id, root in list(tools.state.roots.items()):
            if not is_old_enough(tools.state, root, now):
                continue
            live = tools.index.live(issuers_below(tools.state, root_id), now=now)
            if not is_unused(live, root):
                continue
            event = RootPruned(root_id=root_id, reason="unused")
            if await tools.carry_out(turn.acting, PruneRoot(pruned=(event,))):
                reached("roots.pruned")
                log.info("pruning old unused root CA", root=root_id)

    async def keys(self, turn: Turn) -> None:
        """Destroy what signs nothing any more and has signed nothing that is still valid.

        First the key, then its record: a crash in between leaves a record of a key that is gone,
        and it is recorded then. Who stands still in between, until somebody else leads and needs
        the key again, destroys nothing (H7): the keys are listed *before* the fold that says that
        this node leads and that nobody needs them, and whoever needs one later keeps it anew.
        Raises KeyStoreError.
        """
        tools = self._tools
        if not any(self._unneeded()):
            return
        stores = {"root": tools.root_keys, "signing": tools.signing_keys}
        listed = {
            (purpose, key.key_id): key
            for purpose, store in stores.items()
            for key in await store.stored()
        }
        if not leads(await tools.follower.catch_up(), turn.acting):
            return
        for event in list(self._unneeded()):
            if (key := listed.get((event.purpose, event.key_id))) is not None:
                await stores[event.purpose].destroy(key)
            reached("keys.destroyed")
            if await tools.carry_out(turn.acting, RecordKey(destroyed=event)):
                log.info("a key was destroyed", key=event.key_id, purpose=event.purpose)

    async def force(self, acting: Acting, pruned: tuple[RootPruned, ...]) -> bool:
        """Trust retired roots no more, now; return whether they were trusted."""
        if not await self._tools.carry_out(acting, PruneRoot(pruned=pruned)):
            return False
        reached("roots.pruned")
        for root in pruned:
            log.warning(
                "a root is trusted no more", root=root.root_id, live_leaves=root.live_leaves
            )
        return True

    def _unneeded(self) -> Iterator[KeyDestroyed]:
        """Yield the keys that can be destroyed."""
        state, now = self._tools.state, self._tools.clock.now()
        for key_id, created in state.keys.items():
            if created.purpose == "root":
                if not self._root_key_needed(key_id, now):
                    yield KeyDestroyed(key_id=key_id, purpose="root")
            elif not self._signing_key_needed(key_id, now):
                yield KeyDestroyed(key_id=key_id, purpose="signing")
        for key_id in state.shared - {state.issuer_key_id}:  # its lists are signed by the root's
            yield KeyDestroyed(key_id=key_id, purpose="signing")

    def _root_key_needed(self, key_id: str, now: datetime) -> bool:
        """Say whether a root's key may have to sign: lists, for as long as the root is trusted."""
        state = self._tools.state
        if any(root.published.key_id == key_id for root in state.roots.values()):
            return True
        return _listed_until(state, key_id) > now

    def _signing_key_needed(self, key_id: str, now: datetime) -> bool:
        state = self._tools.state
        if key_id == state.issuer_key_id:
            return True
        if state.renewal is not None and state.renewal.requested.signing_key_id == key_id:
            return True
        issuer = state.issuers.get(key_id)
        if issuer is None:
            return False  # a renewal that never came to be
        if _listed_until(state, key_id) > now:
            return True
        if issuer.root_id not in state.roots:
            return False  # nothing below it is accepted
        return self._tools.may_have_leaves(key_id)


def _listed_until(state: AuthorityState, key_id: str) -> datetime:
    """Return until when the last list that a key signed is valid."""
    last = state.crls.get(key_id)
    return last.issued.next_update if last is not None else datetime.min.replace(tzinfo=UTC)
