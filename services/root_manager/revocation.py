"""Revoking leaves: which are meant, how many live ones it concerns, and who is to ask anew."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import msgspec
import structlog
from msgspec import Meta
from msgspec.structs import replace

from events.base import Moment, Serial, Struct, Ulid
from events.revocation import REVOKED_MAX, LeavesRevoked, RevocationReason, RevokedLeaf
from projections.issuance import Selection
from services.breakpoints import reached
from services.pki import pem
from services.refusals import RefusedError
from services.root_manager.commands import Revoke
from services.root_manager.pruning import issuers_below
from services.root_manager.tools import Tools, Turn, moved_on

WORDS_MAX: Final = 4_000  # of the event's 4,096
SERIALS_MAX: Final = 1_000  # in one command
INDEX_SECONDS: Final = 5.0  # of waiting for the node's projections
INDEX_PAUSE_SECONDS: Final = 0.05
TOLD_AGAIN_FOR: Final = timedelta(minutes=10)  # by a new leader
IDENTITIES_TOLD: Final = 100  # in an answer, those with most leaves first

log = structlog.get_logger()


class Chosen(Struct, rename="pascal", forbid_unknown_fields=True):
    """Which leaves a command means: one way to choose, or a time that it is restricted to."""

    serials: Annotated[tuple[str, ...], Meta(min_length=1, max_length=SERIALS_MAX)] | None = None
    identity: Annotated[str, Meta(max_length=2048)] | None = None
    signer: Ulid | None = None
    root_id: Annotated[str, Meta(max_length=100)] | None = msgspec.field(
        name="RootID", default=None
    )
    issued_from: Moment | None = None
    issued_to: Moment | None = None

    def words(self) -> str:
        """Return it as the ledger records it."""
        serials = None if self.serials is None else tuple(map(_serial, self.serials))
        told = msgspec.to_builtins(replace(self, serials=serials), str_keys=True)
        said = {name: value for name, value in told.items() if value is not None}
        text = msgspec.json.encode(said).decode()
        if len(text) <= WORDS_MAX:
            return text
        return f"{text[:WORDS_MAX]}... sha256:{hashlib.sha256(text.encode()).hexdigest()}"


class Revocation(Struct):
    """What a command came to, or would come to."""

    leaves: int  # live ones that were not revoked before
    identities: Mapping[str, int]  # theirs


class Revocations:
    """Revokes."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def find(self, chosen: Chosen) -> list[RevokedLeaf]:
        """Return the leaves that are meant: live, and not revoked yet.

        Everything that was committed before the question is looked at: raises RefusedError `busy`
        where the node's projections are behind for too long, `conflict` for a root that never was
        one, `bad_config` where nothing is chosen.
        """
        tools = self._tools
        selection = self._selection(chosen)
        await self._index_reaches(await tools.ledger.last_sequence())
        _, leaves = tools.index.select(selection, now=tools.clock.now())
        revoked = tools.state.revoked
        return [leaf for leaf in leaves if leaf.serial not in revoked.get(leaf.issuer_key_id, {})]

    async def revoke(
        self,
        turn: Turn,
        chosen: Chosen,
        leaves: list[RevokedLeaf],
        *,
        reason: RevocationReason,
        request_id: str | None,
        requester: str | None,
    ) -> None:
        """Record that these are revoked.

        Where they take several entries, the request id is in the last: a command that was cut off
        goes on with what is left when it comes again. Raises RefusedError `conflict` where somebody
        else leads by now.
        """
        for start in range(0, len(leaves), REVOKED_MAX):
            part = tuple(leaves[start : start + REVOKED_MAX])
            is_last = start + REVOKED_MAX >= len(leaves)
            revoked = LeavesRevoked(
                leaves=part,
                reason=reason,
                selected_by=chosen.words(),
                request_id=request_id if is_last else None,
                requester=requester,
            )
            if not await self._tools.carry_out(turn.acting, Revoke(revoked=revoked)):
                raise moved_on()
            reached("revocation.recorded")
        log.warning("leaves were revoked", leaves=len(leaves), reason=reason)

    def _selection(self, chosen: Chosen) -> Selection:
        state = self._tools.state
        ways = (chosen.serials, chosen.identity, chosen.signer, chosen.root_id)
        if sum(way is not None for way in ways) > 1:
            raise RefusedError("malformed", "choose by serials, identity, signer or root: by one")
        if all(way is None for way in (*ways, chosen.issued_from, chosen.issued_to)):
            raise RefusedError("malformed", "nothing is chosen: everything is never meant")
        issuers = None
        if chosen.root_id is not None:
            if chosen.root_id not in state.roots.keys() | state.pruned.keys():
                raise RefusedError("not_found", f"root {chosen.root_id} is not known here")
            issuers = tuple(issuers_below(state, chosen.root_id))
        return Selection(
            serials=None if chosen.serials is None else tuple(map(_serial, chosen.serials)),
            identity=chosen.identity,
            signer=chosen.signer,
            issuer_key_ids=issuers,
            issued_from=chosen.issued_from,
            issued_to=chosen.issued_to,
        )

    async def _index_reaches(self, sequence: int) -> None:
        try:
            async with asyncio.timeout(INDEX_SECONDS):
                while self._tools.index.position() < sequence:  # noqa: ASYNC110 - a file's
                    await asyncio.sleep(INDEX_PAUSE_SECONDS)
        except TimeoutError:
            raise RefusedError(
                "busy", f"the node's projections have not reached {sequence}", retry_after=5.0
            ) from None


class Reissues:
    """Tells everybody whose certificates were revoked: they are to ask for new ones.

    It goes out live, and is not kept: who misses it learns it from the list. A new leader tells
    again what is a few minutes old, since the one before may have ended in between.
    """

    def __init__(self, tools: Tools, tell: Callable[[bytes], Awaitable[None]]) -> None:
        self._tools = tools
        self._tell = tell
        self._told: int | None = None  # sequence of the last revocation that was told

    async def tell(self) -> None:
        """Tell what was not told yet."""
        state, now = self._tools.state, self._tools.clock.now()
        last = max(state.revoked_sequence.values(), default=0)
        if last == (self._told or 0):
            return
        told: dict[int, list[dict[str, Any]]] = {}
        for serials in state.revoked.values():
            for serial, revoked in serials.items():
                if self._is_new(revoked.sequence, revoked.at, now):
                    told.setdefault(revoked.sequence, []).append(
                        {"SerialNumber": pem.colon_hex(serial), "Identity": revoked.identity}
                    )
        for sequence, leaves in sorted(told.items()):
            await self._tell(msgspec.json.encode({"LedgerSequence": sequence, "Leaves": leaves}))
            reached("reissues.told")
        self._told = last

    def _is_new(self, sequence: int, at: datetime, now: datetime) -> bool:
        return now - at < TOLD_AGAIN_FOR if self._told is None else sequence > self._told


def counted(leaves: list[RevokedLeaf]) -> Revocation:
    """Return how many leaves of whom these are."""
    identities = Counter(leaf.identity for leaf in leaves)
    return Revocation(leaves=len(leaves), identities=dict(identities.most_common(IDENTITIES_TOLD)))


def _serial(text: str) -> str:
    """Read a serial number as it is shown, or as the ledger has it; raises RefusedError."""
    plain = text.replace(":", "").lower().lstrip("0")
    try:
        return msgspec.convert(plain, Serial)
    except msgspec.ValidationError:
        raise RefusedError("malformed", f"{text[:60]!r} is no serial number") from None
