"""Commands as they come over NATS: queued for the leader's next turn, answered once."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from services import error_reply
from services.keys.interface import KeyStoreError
from services.nats_access.asker import answer, may_answer, requester_of
from services.pki.certificates import CertificateError
from services.refusals import RefusedError
from services.root_manager.administration import Administration
from services.root_manager.asked import Asked
from services.root_manager.attempts import NO_PROVIDERS
from services.root_manager.tools import Turn

QUEUED_MAX: Final = 64  # commands; who comes after that asks again
REPLIES_MAX: Final = 16  # to one question that was sent again and again

Key = tuple[str, str | None, bytes]  # subject, requester, digest of the body
Answer = tuple[bytes, dict[str, str] | None]

log = structlog.get_logger()


class Hearing:
    """Hears commands, and has them carried out while this node leads.

    Every root-manager hears them, and only the leader answers. Our clients send a question again
    after a silence: while it waits it is one question. Afterwards its request id tells what it came
    to (`Administration`).

    `show` has the questions of this node answered from what a command has led to: who is told that
    it is done, and asks, is not told what was before.
    """

    def __init__(
        self,
        nc: Client,
        administration: Administration,
        *,
        wake: Callable[[], None],
        show: Callable[[], Awaitable[None]],
    ) -> None:
        self._nc = nc
        self._administration = administration
        self._wake = wake
        self._show = show
        self._waiting: dict[Key, tuple[Asked, list[str]]] = {}  # in the order in which they came

    async def listen(self) -> None:
        """Hear commands from now on."""
        for subject in self._administration.subjects:
            await self._nc.subscribe(subject, cb=self._heard)

    def forget(self) -> None:
        """Drop what waits: another node leads, and heard it as well."""
        self._waiting.clear()

    async def carry_out(self, turn: Turn) -> None:
        """Carry out what waits, in order.

        Raises NO_PROVIDERS alone, and what is left waits then; the command itself is sent again,
        and may be decided already. Whatever else it stumbles over ends that one command.
        """
        while self._waiting:
            key, (asked, replies) = next(iter(self._waiting.items()))
            try:
                told: Answer = (await self._administration.handle(turn, asked), None)
            except RefusedError as refused:
                told = error_reply.encode(refused)
            except (KeyStoreError, CertificateError) as error:
                log.error("a command failed", subject=asked.subject, error=str(error))  # noqa: TRY400
                told = error_reply.encode(RefusedError("bad_config", str(error)))
            except NO_PROVIDERS:
                self._waiting.pop(key, None)
                raise
            except Exception:
                log.exception("a command failed", subject=asked.subject)
                told = error_reply.encode(RefusedError("internal", "internal error"))
            self._waiting.pop(key, None)
            await self._show()
            await answer(self._nc, replies, *told)

    async def _heard(self, message: Msg) -> None:
        if not may_answer(message.reply):
            return
        requester = requester_of(message.headers)
        key = (message.subject, requester, hashlib.sha256(message.data).digest())
        if key in self._waiting:
            _, replies = self._waiting[key]
            if message.reply not in replies and len(replies) < REPLIES_MAX:
                replies.append(message.reply)
        elif len(self._waiting) < QUEUED_MAX:
            asked = Asked(subject=message.subject, body=message.data, requester=requester)
            self._waiting[key] = (asked, [message.reply])
            self._wake()
