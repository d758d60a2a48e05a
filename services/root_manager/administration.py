"""Commands to the CA manager: what each leads to, and what is answered.

A command may carry a request id: asked again under it, also of the next leader, it is told what
became of it and is not carried out twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from events.authority import CAConfig, RootPruned
from events.base import Struct
from events.subjects import Subjects
from projections import bridges
from projections.authority import AuthorityState
from projections.issuance import WentBackError
from services import wording
from services.outcomes import Outcome, Planned
from services.refusals import RefusedError
from services.root_manager import configuration, repeated
from services.root_manager.asked import Abort, Asked, Prune, Revoke, Rotate, read
from services.root_manager.commands import Configure
from services.root_manager.configuration import Wanted
from services.root_manager.foretelling import foretold
from services.root_manager.manager import CaManager
from services.root_manager.planning import Plan, plan
from services.root_manager.pruning import issuers_below
from services.root_manager.repeated import LedTo, is_done
from services.root_manager.revocation import counted
from services.root_manager.rotation import NewRoot
from services.root_manager.tools import Turn, moved_on


class Administration:
    """Carries out commands, one at a time, in a turn of the leader."""

    def __init__(self, manager: CaManager, subjects: Subjects) -> None:
        self._manager = manager
        self._tools = manager.tools
        self._handlers: Mapping[str, Callable[[Turn, Asked], Awaitable[Struct]]] = {
            subjects.config_set: self._configure,
            subjects.config_plan: self._plan,
            subjects.rotation_start: self._rotate,
            subjects.rotation_abort: self._abort,
            subjects.roots_prune: self._prune,
            subjects.leaves_revoke: self._revoke,
        }

    @property
    def subjects(self) -> tuple[str, ...]:
        """Return the subjects on which commands are given."""
        return tuple(self._handlers)

    async def handle(self, turn: Turn, asked: Asked) -> bytes:
        """Carry out a command; returns the answer. Raises RefusedError, LedgerError."""
        await self._tools.follower.catch_up()
        try:
            return msgspec.json.encode(await self._handlers[asked.subject](turn, asked))
        except WentBackError as error:
            raise RefusedError(
                "busy", f"the node's projections are made anew: {error}", retry_after=5.0
            ) from error

    async def _plan(self, _: Turn, asked: Asked) -> Planned:
        """Say what `config.set` would do with the same; nothing is made or appended."""
        wanted = self._wanted(asked)
        planned = (
            Plan(effect="nothing")
            if self._is_done(wanted.request_id, repeated.configured(wanted))
            else plan(self._tools.state, wanted, now=self._tools.clock.now())
        )
        return self._foretold(wanted, planned)

    def _foretold(self, wanted: Wanted, planned: Plan) -> Planned:
        tools, state, now = self._tools, self._tools.state, self._tools.clock.now()
        issuers = [issuer for root_id in state.roots for issuer in issuers_below(state, root_id)]
        live = tools.index.live(issuers, now=now)
        return foretold(state, wanted, planned, live=live, now=now)

    def _wanted(self, asked: Asked) -> Wanted:
        return configuration.read(
            asked.body, current=_config(self._tools.state), now=self._tools.clock.now()
        )

    async def _configure(self, turn: Turn, asked: Asked) -> Outcome:
        try:
            wanted = self._wanted(asked)
        except RefusedError:
            # It may have been right when it was carried out: a reference to a key in use then, say.
            known = configuration.request_id_of(asked.body)
            if repeated.was_configured(self._tools.state, known):
                return await self._repeated(turn, known)
            raise
        if self._is_done(wanted.request_id, repeated.configured(wanted)):
            return await self._repeated(turn, wanted.request_id)
        planned = plan(self._tools.state, wanted, now=self._tools.clock.now())
        _check(planned)
        match planned.effect:
            case "initialise":
                self._manager.attempts.forgive()
                await self._manager.initialise(turn, wanted)
            case "nothing":
                return self._outcome("nothing to change")
            case "configure":
                await self._reconfigure(turn, wanted, planned)
            case "rotate":
                return await self._start(turn, asked, wanted, planned, reason="configured")
        return self._outcome("configured")

    async def _reconfigure(self, turn: Turn, wanted: Wanted, planned: Plan) -> None:
        """Change the configuration under the same root: nothing of the root is touched (H7, H22).

        Raises RefusedError `conflict` where it was changed meanwhile.
        """
        tools, state = self._tools, self._tools.state
        before, root = state.configuration, state.active_root
        assert before is not None
        leaf_signer = None
        if planned.leaf_signer_changes and root is not None:
            leaf_signer = await tools.ceremony.leaf_signer(
                tools.names, wanted.config, root.published
            )
        configured = replace(
            before,
            config=wanted.config,
            force_without_cross_signing=wanted.force_without_cross_signing,
            request_id=wanted.request_id,
        )
        command = Configure(
            based_on=state.configured,
            configured=configured,
            leaf_signer=leaf_signer,
            alive=turn.alive,
        )
        if not await tools.carry_out(turn.acting, command):
            raise moved_on()
        self._manager.attempts.forgive()

    async def _rotate(self, turn: Turn, asked: Asked) -> Outcome | Planned:
        command = read(asked.body, Rotate)
        done = self._is_done(
            command.request_id, repeated.rotated(command.force_without_cross_signing)
        )
        if done and not command.dry_run:
            return await self._repeated(turn, command.request_id)
        state = self._tools.state
        before = _config(state)
        if before is None:
            raise RefusedError("busy", f'CA is in state "{state.ca_state}"')
        wanted = Wanted(
            config=before,
            force_without_cross_signing=command.force_without_cross_signing,
            wait_seconds=command.wait_seconds,
            request_id=command.request_id,
        )
        planned = plan(state, wanted, now=self._tools.clock.now(), rotate=True)
        if command.dry_run:
            return self._foretold(wanted, Plan(effect="nothing") if done else planned)
        _check(planned)
        return await self._start(turn, asked, wanted, planned, reason="asked")

    async def _start(
        self,
        turn: Turn,
        asked: Asked,
        wanted: Wanted,
        planned: Plan,
        *,
        reason: Literal["configured", "asked"],
    ) -> Outcome:
        new = NewRoot(
            based_on=self._tools.state.configured,
            config=wanted.config,
            given=wanted.private_key,
            force_without_cross_signing=wanted.force_without_cross_signing,
            crossed=planned.crossed,
            reason=reason,
            wait_seconds=wanted.wait_seconds,
            request_id=wanted.request_id,
            requester=asked.requester,
        )
        if not await self._manager.rotations.start(turn.acting, new):
            raise moved_on()
        self._manager.attempts.forgive()
        return await self._rotated(turn, "rotated", new.request_id)

    async def _repeated(self, turn: Turn, request_id: str | None) -> Outcome:
        """Tell what became of a change that was carried out before."""
        state = self._tools.state
        if request_id in state.given_up:
            return self._outcome("aborted")
        return await self._rotated(turn, "done", request_id)

    async def _rotated(self, turn: Turn, outcome: str, request_id: str | None) -> Outcome:
        """Finish the rotation if it is this command's and due, and say where it stands."""
        rotation = self._tools.state.rotation
        if rotation is None or rotation.started.request_id != request_id:
            return self._outcome(outcome)
        await self._manager.publish(turn)
        await self._manager.rotations.go_on(turn)
        root_id, rotation = rotation.started.root_id, self._tools.state.rotation
        if rotation is None:
            root = self._tools.state.roots.get(root_id)
            is_active = root is not None and root.active
            return self._outcome(outcome if is_active else "aborted")
        return self._outcome(
            "rotating",
            root_id=rotation.started.root_id,
            activate_at=rotation.started.activate_at.isoformat(timespec="seconds"),
        )

    async def _abort(self, turn: Turn, asked: Asked) -> Outcome:
        command = read(asked.body, Abort)
        if self._is_done(command.request_id, repeated.aborted):
            return self._outcome("aborted")
        if self._tools.state.rotation is None:
            raise RefusedError("conflict", "no rotation is on its way")
        await self._manager.rotations.abort(
            turn.acting, command.reason, request_id=command.request_id, requester=asked.requester
        )
        return self._outcome("aborted")

    async def _prune(self, turn: Turn, asked: Asked) -> Outcome:
        command = read(asked.body, Prune)
        state, now = self._tools.state, self._tools.clock.now()
        ways = bridges.ways_to(state, command.root_id) if command.force else {command.root_id}
        going = [each for each in state.roots if each in ways]
        if self._is_done(command.request_id, repeated.pruned(ways)) and not going:
            return self._outcome("pruned", root_id=command.root_id)
        _check_prunable(state, command.root_id, going)
        live = {each: self._tools.index.live(issuers_below(state, each), now=now) for each in going}
        if any(live[each].position < state.roots[each].retired for each in going):
            raise RefusedError(
                "busy", "the node's projections are behind the root's retirement", retry_after=1.0
            )
        details: dict[str, Any] = {
            "root_id": command.root_id,
            "also": tuple(each for each in going if each != command.root_id) or None,
            "live_leaves": sum(each.count for each in live.values()),
        }
        if command.dry_run:
            return self._outcome("would be pruned", **details)
        if details["live_leaves"] and not command.force:
            raise RefusedError(
                "conflict",
                f"{wording.counted(details['live_leaves'], 'live leaf', 'live leaves')} below root "
                f"{command.root_id}: "
                "verifiers would not accept what is valid still; prune it all the same with force",
            )
        pruned = tuple(
            RootPruned(
                root_id=each,
                reason="forced" if live[each].count else "unused",
                live_leaves=live[each].count,
                request_id=command.request_id if each == going[-1] else None,
                requester=asked.requester,
            )
            for each in going
        )
        if not await self._manager.pruning.force(turn.acting, pruned):
            raise moved_on()
        return self._outcome("pruned", **details)

    async def _revoke(self, turn: Turn, asked: Asked) -> Outcome:
        """Revoke leaves, and have the lists that say so issued before it is answered."""
        command = read(asked.body, Revoke)
        manager, details = self._manager, dict[str, Any]()
        if not self._is_done(command.request_id, repeated.revoked(command.leaves)):
            leaves = await manager.revocations.find(command.leaves)
            found = counted(leaves)
            details = {"live_leaves": found.leaves, "identities": found.identities}
            manager.crls.check_room(leaves, command.reason)
            if command.dry_run:
                return self._outcome("would be revoked", **details)
            if not leaves:
                missing = manager.crls.missing() or None
                return self._outcome("nothing to revoke", live_leaves=0, lists_missing=missing)
            await manager.revocations.revoke(
                turn,
                command.leaves,
                leaves,
                reason=command.reason,
                request_id=command.request_id,
                requester=asked.requester,
            )
        await manager.crls.issue(turn, at_once=True)
        await manager.reissues.tell()
        return self._outcome("revoked", lists_missing=manager.crls.missing() or None, **details)

    def _is_done(self, request_id: str | None, led_to: LedTo) -> bool:
        return is_done(self._tools.state, request_id, led_to)

    def _outcome(self, outcome: str, **details: Any) -> Outcome:
        state = self._tools.state
        active = state.active_root
        return Outcome(
            outcome=outcome,
            state=state.ca_state,
            modify_index=state.configured,
            ledger_sequence=state.position,
            **{"root_id": active.published.root_id if active is not None else None, **details},
        )


def _config(state: AuthorityState) -> CAConfig | None:
    return state.configuration.config if state.configuration is not None else None


def _check_prunable(state: AuthorityState, root_id: str, going: Sequence[str]) -> None:
    """Raise RefusedError `conflict` where these roots cannot go, or there is none to go."""
    if not going:
        raise RefusedError("conflict", f"there is no trusted root {root_id}")
    rotation = state.rotation
    for each in going:
        what = f"root {each}" if each == root_id else f"root {each}, which signed it across,"
        if state.roots[each].active:
            raise RefusedError("conflict", f"{what} is active: rotate first")
        if rotation is not None and rotation.started.root_id == each:
            raise RefusedError("conflict", f"{what} is on its way: abort that")


def _check(planned: Plan) -> None:
    """Raise RefusedError where something stands against it."""
    if planned.problem is not None:
        raise RefusedError(planned.problem.code, planned.problem.message)
