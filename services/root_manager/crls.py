"""Every issuer that is trusted has a revocation list that is valid, signed again in time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final, Literal

import structlog

from events.base import Struct, utc
from events.revocation import CRL_BYTES_MAX, CrlIssued
from projections.authority import AuthorityState
from services.breakpoints import reached
from services.pki import certificates, crl
from services.root_manager.commands import IssueCrl
from services.root_manager.tools import Tools, Turn

LIFE: Final = timedelta(hours=72)  # of a list: who fetches none for that long accepts nothing
AGAIN_AFTER: Final = timedelta(hours=24)
BACKDATE: Final = timedelta(hours=1)  # for verifiers whose clocks are behind

log = structlog.get_logger()


class CrlIssuer(Struct):
    """Who signs a list, and with which key."""

    key_id: str
    kind: Literal["root", "intermediate"]
    certificate: bytes


class Crls:
    """Issues lists."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def issue(self, turn: Turn) -> None:
        """Issue every list that is due. Raises KeyStoreError."""
        state, now = self._tools.state, self._tools.clock.now()
        due = [
            issuer
            for issuer in issuers(state, now)
            if is_due(state, issuer.key_id, now) and self._is_needed(issuer)
        ]
        for issuer in due:
            await self._issue(turn, issuer)

    def _is_needed(self, issuer: CrlIssuer) -> bool:
        """Say whether any leaf may be checked with the list; else its key could never go."""
        if issuer.kind == "root" or issuer.key_id == self._tools.state.issuer_key_id:
            return True
        return self._tools.may_have_leaves(issuer.key_id)

    async def _issue(self, turn: Turn, issuer: CrlIssuer) -> None:
        tools = self._tools
        state, now = tools.state, utc(tools.clock.now())
        last = state.crls.get(issuer.key_id)
        number = last.issued.number + 1 if last is not None else 1
        entries = [
            crl.Entry(serial=int(serial, 16), at=utc(revoked.at), reason=revoked.reason)
            for serial, revoked in state.revoked.get(issuer.key_id, {}).items()
            if revoked.not_after > now - BACKDATE
        ]
        this_update, next_update = now - BACKDATE, now + LIFE
        tbs = crl.tbs(
            issuer=issuer.certificate,
            entries=entries,
            number=number,
            this_update=this_update,
            next_update=next_update,
        )
        store = tools.root_keys if issuer.kind == "root" else tools.signing_keys
        signed = crl.assemble(tbs, await store.sign(issuer.key_id, tbs), issuer.certificate)
        if len(signed) > CRL_BYTES_MAX:
            log.error("a revocation list is too long to be issued", key=issuer.key_id)
            return
        reached("crls.signed")
        issued = CrlIssued(
            issuer_key_id=issuer.key_id,
            issuer=issuer.kind,
            number=number,
            this_update=this_update,
            next_update=next_update,
            revoked=len(entries),
            crl=signed,
        )
        if await tools.carry_out(turn.acting, IssueCrl(issued=issued, based_on=state.position)):
            reached("crls.issued")


def issuers(state: AuthorityState, now: datetime) -> Iterator[CrlIssuer]:
    """Yield who may need a valid list: trusted roots, and what signs or signed below them."""
    for root in state.roots.values():
        yield CrlIssuer(
            key_id=root.published.key_id, kind="root", certificate=root.published.certificate
        )
    for issuer in state.issuers.values():
        root_of = state.roots.get(issuer.root_id)
        if root_of is None or issuer.key_id == root_of.published.key_id:
            continue
        if issuer.key_id not in state.keys:
            continue  # destroyed: its last leaf has expired, and its last list
        if certificates.load(issuer.certificate).not_valid_after_utc > now:
            yield CrlIssuer(
                key_id=issuer.key_id, kind="intermediate", certificate=issuer.certificate
            )


def is_due(state: AuthorityState, key_id: str, now: datetime) -> bool:
    """Say whether a list is to be issued: there is none, it grows old, or something was revoked."""
    last = state.crls.get(key_id)
    if last is None:
        return True
    if state.revoked_sequence.get(key_id, 0) > last.sequence:
        return True
    return now >= last.issued.this_update + BACKDATE + AGAIN_AFTER
