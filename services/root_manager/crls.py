"""Every issuer that is trusted has a revocation list that is valid, signed again in time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Literal

from events.base import Struct, utc
from events.revocation import CRL_BYTES_MAX, CrlIssued, RevocationReason, RevokedLeaf
from projections.authority import AuthorityState
from services.breakpoints import reached
from services.pki import certificates, crl
from services.refusals import RefusedError
from services.root_manager.attempts import Attempts
from services.root_manager.commands import IssueCrl
from services.root_manager.tools import Tools, Turn

BRIDGES_BYTES: Final = 2_048  # of a list, kept for roots that were pruned
LIFE: Final = timedelta(hours=72)  # of a list: who fetches none for that long accepts nothing
AGAIN_AFTER: Final = timedelta(hours=24)
BACKDATE: Final = timedelta(hours=1)  # for verifiers whose clocks are behind


class CrlIssuer(Struct):
    """Who signs a list, and with which key."""

    key_id: str
    kind: Literal["root", "intermediate"]
    certificate: bytes


class Crls:
    """Issues lists. Each issuer's is an attempt of its own: a key that is lost stops no other."""

    def __init__(self, tools: Tools, attempts: Attempts) -> None:
        self._tools = tools
        self._attempts = attempts
        self._tried: set[str] = set()

    def check_room(self, leaves: Sequence[RevokedLeaf], reason: RevocationReason) -> None:
        """Raise RefusedError `conflict` where a list would get too long with these leaves on it.

        Once they are recorded it would be too late: no list of their issuer could be issued.
        """
        state, now = self._tools.state, utc(self._tools.clock.now())
        added: dict[str, list[crl.Entry]] = {}
        for leaf in leaves:
            entry = crl.Entry(serial=int(leaf.serial, 16), at=now, reason=reason)
            added.setdefault(leaf.issuer_key_id, []).append(entry)
        for key_id, more in added.items():
            if (issuer := state.issuers.get(key_id)) is not None:
                entries = [*_entries(state, key_id, now), *more]
                most = crl.bytes_most(issuer.certificate, entries)
                if most > CRL_BYTES_MAX - BRIDGES_BYTES:
                    raise _too_long(key_id, entries, most)

    async def issue(self, turn: Turn, *, at_once: bool = False) -> None:
        """Issue every list that is due, those that hide a revocation first.

        What fails is remembered, and tried again after a pause: `at_once` without it. Raises what
        `Attempts.attempt` does.
        """
        state, now = self._tools.state, self._tools.clock.now()
        due = {
            _what(issuer): issuer
            for issuer in sorted(issuers(state, now), key=lambda one: not _hides(state, one.key_id))
            if is_due(state, issuer.key_id, now)
        }
        for what in self._tried - due.keys() | (due.keys() if at_once else set()):
            self._attempts.forget(what)
        self._tried = set(due)
        for what, issuer in due.items():
            await self._attempts.attempt(what, partial(self._issue, turn, issuer))

    def missing(self) -> tuple[str, ...]:
        """Return the issuers (key ids) whose lists do not say yet what was revoked.

        Raises WentBackError.
        """
        state, now = self._tools.state, self._tools.clock.now()
        return tuple(
            issuer.key_id
            for issuer in issuers(state, now)
            if _hides(state, issuer.key_id) and self._is_needed(issuer)
        )

    def _is_needed(self, issuer: CrlIssuer) -> bool:
        """Say whether any leaf may be checked with the list; else its key could never go."""
        if issuer.kind == "root" or issuer.key_id == self._tools.state.issuer_key_id:
            return True
        return self._tools.may_have_leaves(issuer.key_id)

    async def _issue(self, turn: Turn, issuer: CrlIssuer) -> None:
        """Issue a list if it is needed.

        Raises KeyStoreError, CertificateError, WentBackError; RefusedError where it is too long.
        """
        if not self._is_needed(issuer):
            return
        tools = self._tools
        state, now = tools.state, utc(tools.clock.now())
        last = state.crls.get(issuer.key_id)
        number = last.issued.number + 1 if last is not None else 1
        entries = _entries(state, issuer.key_id, now)
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
            raise _too_long(issuer.key_id, entries, len(signed))
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
    """Say whether a list is to be issued.

    There is none, it grows old, something was revoked; or it is not valid yet, since the clock of
    who led was ahead: until it is, nobody would accept anything.
    """
    last = state.crls.get(key_id)
    if last is None or _hides(state, key_id):
        return True
    for root in state.roots.values():
        if root.published.key_id == key_id and last.sequence < root.created:
            return True  # it names the root that had this key before
    begins = last.issued.this_update
    return begins > now or now >= begins + BACKDATE + AGAIN_AFTER


def _hides(state: AuthorityState, key_id: str) -> bool:
    """Say whether something was revoked that the issuer's list does not say."""
    last = state.crls.get(key_id)
    return state.revoked_sequence.get(key_id, 0) > (last.sequence if last is not None else 0)


def _entries(state: AuthorityState, key_id: str, now: datetime) -> list[crl.Entry]:
    """Return what an issuer's list has to say: all that was revoked and has not expired."""
    return [
        crl.Entry(serial=int(serial, 16), at=utc(revoked.at), reason=revoked.reason)
        for serial, revoked in (
            *state.revoked.get(key_id, {}).items(),
            *state.bridges.get(key_id, {}).items(),
        )
        if revoked.not_after > now - BACKDATE and crl.is_serial(int(serial, 16))
    ]


def _what(issuer: CrlIssuer) -> str:
    return f"issuing the revocation list of {issuer.kind} {issuer.key_id}"


def _too_long(key_id: str, entries: Sequence[crl.Entry], size: int) -> RefusedError:
    room = CRL_BYTES_MAX * len(entries) // size
    return RefusedError(
        "conflict",
        f"the list of issuer {key_id} would be too long ({len(entries)} of at most {room} "
        "entries): choose fewer, or rotate and prune the root",
    )
