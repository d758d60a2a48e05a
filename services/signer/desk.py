"""From a request that a signer holds to a signature, step by step; nothing here replies."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import datetime
from functools import lru_cache
from typing import Final

import structlog

from events.leaves import IdentityKind, LeafRefused
from events.subjects import Subjects
from projections.authority import AuthorityState
from services.clock import Clock, Entropy
from services.keys.interface import KeyNotFoundError, KeyStore
from services.pki import csr, spiffe
from services.refusals import RefusedError, clip
from services.signer import decide
from services.signer.decide import Life, Terms
from services.signer.holdings import Holdings
from services.signer.refused import Refusal
from services.signer.request import check_durable, read_name, read_request, read_request_id
from services.signer.work import Signed, TurnedDown, Work
from services.stamping import Stamper

KEY_TRIES: Final = 50  # while a new signing key has not come to the replica that is asked
KEY_WAIT_SECONDS: Final = 0.1

_log = structlog.get_logger()


class Desk:
    """Reads, checks and signs under one grant at a time."""

    def __init__(
        self,
        *,
        subjects: Subjects,
        signer: str,
        keystore: KeyStore,
        stamper: Stamper,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._subjects = subjects
        self._signer = signer
        self._keystore = keystore
        self._stamper = stamper
        self._clock = clock
        self._entropy = entropy
        self._terms: Terms | None = None
        self._life: tuple[datetime, Life] | None = None

    async def take_up(self, state: AuthorityState, holdings: Holdings) -> None:
        """Work under this grant from now on; returns when its key is at hand.

        Raises KeyStoreError.
        """
        terms = decide.terms_of(state, holdings.signing_key_id)
        if terms is not None and (
            self._terms is None or self._terms.issuer.key_id != terms.issuer.key_id
        ):
            await self._warm_up(terms.issuer.key_id)
        self._terms, self._life = terms, None

    def read(self, work: Work) -> None:
        """Find out what is asked for; raises RefusedError."""
        with _Hostile("a signing request could not be read"):
            request = read_request(self._subjects, work.subject, work.body)
            work.identity = self._identity(request.kind, request.name)
            if work.nameless:
                raise RefusedError("malformed", "the headers leave open who asks")
            if request.csr_der is not None:
                work.csr_sha256 = hashlib.sha256(request.csr_der).hexdigest()
            if work.submissions:
                check_durable(request)
            work.request = request

    def check(self, work: Work) -> None:
        """Check the CSR; raises RefusedError."""
        terms = decide.ready(self._terms)
        if work.checked is not None and work.checked_under is terms.sans:
            return
        assert work.request is not None
        assert work.request.csr_der is not None
        assert work.identity is not None
        with _Hostile("a CSR could not be checked"):
            work.checked = csr.check(
                work.request.csr_der,
                csr.Asker(
                    identity=work.identity,
                    kind=work.request.kind,
                    name=work.request.name,
                    trust_domain=terms.trust_domain,
                    datacenter=self._subjects.datacenter,
                    allowed=getattr(terms.sans, work.request.kind),
                ),
            )
            work.checked_under = terms.sans

    async def sign(self, work: Work, *, grant_sequence: int) -> Signed:
        """Sign what was checked, under this grant; raises RefusedError, KeyStoreError.

        What it returns must not leave this process before it is recorded (failure F5).
        """
        terms = decide.ready(self._terms)
        assert work.request is not None
        assert work.identity is not None
        assert work.checked is not None
        life = self._life_now(terms)
        serial = self._entropy.serial()
        tbs = decide.tbs_of(terms, work.checked, identity=work.identity, serial=serial, life=life)
        issued = decide.leaf_of(
            terms,
            work.request,
            work.checked,
            identity=work.identity,
            serial=serial,
            life=life,
            tbs=tbs,
            signature=await self._keystore.sign(terms.issuer.key_id, tbs),
            signer=self._signer,
            grant_sequence=grant_sequence,
            requester=work.requester,
        )
        return Signed(
            work=work, leaf=issued, event=self._stamper.stamp(issued, subject=work.identity)
        )

    def turned_down(self, work: Work, refused: RefusedError, *, grant_sequence: int) -> TurnedDown:
        """Return what records that a durable request is never signed, and is its id's answer.

        Not where its id has another answer, or will have: that of the first CSR under it.
        """
        told = self.refusal(work, refused)
        event = LeafRefused(
            request_id=told.request_id,
            identity=told.identity,
            code=told.code,
            message=told.message,
            signer=self._signer,
            grant_sequence=grant_sequence,
            requester=told.requester,
            durable=refused.code != "request_id_conflict",
        )
        stamped = self._stamper.stamp(event, subject=told.identity or self._signer)
        return TurnedDown(work=work, refused=refused, refusal=event, event=stamped)

    def read_refused(self, work: Work, refused: RefusedError) -> None:
        """Find out of a durable request that cannot be read whose it is, as far as that is told."""
        work.refused = refused
        work.identity = self._identity_of(work.subject)
        work.refused_id = read_request_id(work.body)

    def refusal(self, work: Work, refused: RefusedError) -> Refusal:
        """Return what to record of a refusal: as much as is known, and nothing of the body."""
        request_id = work.request.request_id if work.request else read_request_id(work.body)
        return Refusal(
            request_id=request_id,
            identity=work.identity or self._identity_of(work.subject),
            code=refused.code,
            message=clip(refused.message),
            requester=work.requester,
        )

    def _life_now(self, terms: Terms) -> Life:
        """Return the validity of leaves of this second."""
        second = self._clock.now().replace(microsecond=0)
        if self._life is None or self._life[0] != second:
            self._life = second, decide.life(terms, second)
        return self._life[1]

    def _identity(self, kind: IdentityKind, name: str) -> str:
        trust_domain = decide.ready(self._terms).trust_domain
        return _identity_id(kind, name, trust_domain, self._subjects.datacenter)

    def _identity_of(self, subject: str) -> str | None:
        try:
            return self._identity(*read_name(self._subjects, subject)[:2])
        except RefusedError:
            return None

    async def _warm_up(self, key_id: str) -> None:
        """Have the key ready before the first request needs it, and see that it opens."""
        for left in reversed(range(KEY_TRIES)):
            try:
                await self._keystore.sign(key_id, b"caledger: this key opens")
            except KeyNotFoundError:
                if left == 0:
                    raise
                await asyncio.sleep(KEY_WAIT_SECONDS)
            else:
                return


class _Hostile:
    """Around what parses bytes from outside: whatever it stumbles over ends one request only.

    A parser's panic (failure F19) is no Exception in Python.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if error is None or isinstance(error, RefusedError | KeyboardInterrupt | SystemExit):
            return
        _log.error(self._what, exc_info=error)
        raise RefusedError("internal", "internal error") from error


@lru_cache(maxsize=4_096)
def _identity_id(kind: IdentityKind, name: str, trust_domain: str, datacenter: str) -> str:
    try:
        return spiffe.identity_id(kind, name, trust_domain=trust_domain, datacenter=datacenter)
    except spiffe.SpiffeIdError as error:
        raise RefusedError("bad_name", clip(str(error))) from error
