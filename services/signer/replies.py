"""What a signer tells those who asked, and what of it goes on the ledger."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from events.leaves import RefusalCode
from projections.answers import IssuedLeaf
from services import error_reply
from services.clock import Clock
from services.issued import issued_cert
from services.refusals import RefusedError
from services.signer.decide import NOT_YET, RefusedBeforeError
from services.signer.desk import Desk
from services.signer.grantee import Grantee
from services.signer.refused import RefusalRecord
from services.signer.work import Work

_log = structlog.get_logger()


class Replies:
    """Answers on the inboxes that a work came with.

    `alive`: while this says no, nothing is refused; whether a refusal is right is not known then.
    """

    def __init__(
        self,
        *,
        nc: Client,
        desk: Desk,
        grantee: Grantee,
        refusals: RefusalRecord,
        clock: Clock,
        alive: Callable[[], bool],
    ) -> None:
        self._nc = nc
        self._desk = desk
        self._grantee = grantee
        self._refusals = refusals
        self._clock = clock
        self._alive = alive

    async def issued(self, work: Work, issued: IssuedLeaf) -> None:
        """Give out what the ledger holds; raises RefusedError `not_ready`."""
        issuer = self._grantee.state.issuers.get(issued.leaf.issuer_key_id)
        if issuer is None:  # the index is ahead of our fold
            raise RefusedError("not_ready", "its issuer is not known here yet", retry_after=1.0)
        body = issued_cert(
            issued.leaf, sequence=issued.sequence, event_id=issued.event_id, issuer=issuer
        )
        await self._send(work, body)

    async def refused(self, work: Work, refused: RefusedError) -> None:
        """Tell why not, at once: nothing was signed that could be lost with its record."""
        if not self._alive():
            return
        if _is_news(work, refused):
            self._refusals.add(self._desk.refusal(work, refused), self._clock.now())
        await self.turned_down(work, refused)

    def untold(self, work: Work, code: RefusalCode) -> None:
        """Have a refusal counted on the ledger that nobody is told of."""
        if self._alive():
            self._refusals.count(code, work.requester, self._clock.now())

    async def turned_down(self, work: Work, refused: RefusedError) -> None:
        """Tell a refusal that is recorded already."""
        body, headers = error_reply.encode(refused)
        await self._send(work, body, headers)

    async def _send(self, work: Work, body: bytes, headers: dict[str, str] | None = None) -> None:
        for reply in work.replies:
            try:
                await self._nc.publish(reply, body, headers=headers)
            except NatsError as error:  # who asked asks again, under the same request id
                _log.warning("an answer could not be sent", error=str(error) or repr(error))


def _is_news(work: Work, refused: RefusedError) -> bool:
    """Say whether a refusal is to be recorded: not where it only is an answer, or none yet."""
    if isinstance(refused, RefusedBeforeError) or refused.code in ("not_found", "pending"):
        return False
    return bool(work.replies) or refused.code not in NOT_YET  # a durable request is tried again
