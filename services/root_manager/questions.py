"""What is asked of the CA manager and answered from the fold, whether its node leads or not.

Every root-manager answers, and the first answer counts: a queue group would give a share of the
questions to one that is stopped (nats.md, section 10).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from events.base import KeyId, Struct
from events.subjects import Subjects
from projections.authority import AuthorityState, Crl
from services import error_reply
from services.nats_access.asker import answer, may_answer
from services.outcomes import RevocationList, RevocationLists
from services.pki import pem
from services.refusals import RefusedError
from services.root_manager import configuration
from services.root_manager.roots import encoded

LISTS_BYTES_MAX: Final = 700_000  # of one answer; lists beyond that are asked for one by one

_UNINITIALIZED: Final = RefusedError(
    "not_ready",
    "CA is uninitialized: no root certificate",
    retry_after=0.25,  # an authority is made in about that
)


class _WhichLists(Struct, forbid_unknown_fields=True):
    issuer: KeyId | None = msgspec.field(name="Issuer", default=None)


class ListAnswers:
    """Answers for revocation lists, each made once for a state."""

    def __init__(self) -> None:
        self._state: AuthorityState | None = None
        self._made: dict[str | None, bytes] = {}  # by issuer; None: of all

    def answer(self, state: AuthorityState, body: bytes) -> bytes:
        """Return the answer to a question; raises RefusedError."""
        wanted = _wanted(body)
        if state is not self._state:
            self._state = state
            self._made.clear()
        if wanted not in self._made:
            self._made[wanted] = _lists(state, wanted)
        return self._made[wanted]


class Questions:
    """Answers from what it was last shown."""

    def __init__(self, nc: Client, subjects: Subjects) -> None:
        self._nc = nc
        self._state: AuthorityState | None = None
        self._roots: bytes | None = None
        self._answers: Mapping[str, Callable[[AuthorityState, bytes], bytes]] = {
            subjects.roots_get: self._bundle,
            subjects.config_get: _configuration,
            subjects.crl_get: ListAnswers().answer,
        }

    async def show(self, state: AuthorityState) -> None:
        """Answer from this state from now on.

        Before the first state is known nothing is answered: "not ready" would be wrong.
        """
        began = self._state is None
        if self._state is None or self._state.bundle_sequence != state.bundle_sequence:
            self._roots = encoded(state)
        self._state = state
        if began:
            for subject in self._answers:
                await self._nc.subscribe(subject, cb=self._answer)

    async def _answer(self, asked: Msg) -> None:
        if not may_answer(asked.reply):
            return
        assert self._state is not None
        headers = None
        try:
            body = self._answers[asked.subject](self._state, asked.data)
        except RefusedError as refused:
            body, headers = error_reply.encode(refused)
        await answer(self._nc, [asked.reply], body, headers)

    def _bundle(self, _: AuthorityState, __: bytes) -> bytes:
        if self._roots is None:
            raise _UNINITIALIZED
        return self._roots


def _configuration(state: AuthorityState, _: bytes) -> bytes:
    return msgspec.json.encode(configuration.told(state))


def _wanted(body: bytes) -> str | None:
    try:
        return msgspec.json.decode(body[:1024] or b"{}", type=_WhichLists).issuer
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RefusedError("malformed", 'a question for lists is {"Issuer": KEY-ID}') from error


def _lists(state: AuthorityState, wanted: str | None) -> bytes:
    if state.configuration is None:
        raise _UNINITIALIZED
    if wanted is not None:
        if wanted not in state.crls:
            raise RefusedError("not_found", f"there is no revocation list of {wanted}")
        told: tuple[RevocationList, ...] = (_told(state.crls[wanted], whole=True),)
    else:
        told = tuple(_all(state))
    return msgspec.json.encode(RevocationLists(ledger_sequence=state.position, lists=told))


def _all(state: AuthorityState) -> Iterator[RevocationList]:
    """Yield the lists of who is trusted; those that do not fit the answer without themselves."""
    left = LISTS_BYTES_MAX
    trusted = {root.published.key_id for root in state.roots.values()}
    trusted |= {key_id for key_id, issuer in state.issuers.items() if issuer.root_id in state.roots}
    for key_id, listed in state.crls.items():
        if key_id in trusted:
            size = pem.length(listed.issued.crl, "X509 CRL")
            fits = size <= left
            left -= size if fits else 0
            yield _told(listed, whole=fits)


def _told(listed: Crl, *, whole: bool) -> RevocationList:
    issued = listed.issued
    return RevocationList(
        issuer_key_id=issued.issuer_key_id,
        issuer=issued.issuer,
        number=issued.number,
        this_update=issued.this_update,
        next_update=issued.next_update,
        revoked=issued.revoked,
        ledger_sequence=listed.sequence,
        crl=pem.encode(issued.crl, "X509 CRL") if whole else None,
    )
