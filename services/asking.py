"""One question over NATS, asked until it is answered: the same bytes again after each silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from services import error_reply
from services.clock import Entropy
from services.error_reply import ErrorTold
from services.refusals import RefusedError
from services.transport import NotPermittedError, TransportError

ASK_AGAIN_SECONDS: Final = 0.25  # of silence: a lost signer costs latency, not errors
ASK_AGAIN_GROWTH: Final = 1.5  # after each further silence: an outage is followed by no herd (F16)
ASK_AGAIN_SECONDS_MAX: Final = 1.0
ANSWERS_MAX: Final = 1_000  # to one question
ASK_AGAIN_SPREAD: Final = 0.2  # of it, either way


class NoAnswerError(Exception):
    """Nobody answered in time, or the connection is gone."""


class RefusedLateError(RefusedError):
    """A no to a request that was sent more than once: an earlier sending may have got its yes."""


def patience(sendings: int, fraction: float) -> float:
    """Return how many seconds to wait for an answer to so many sendings before the next.

    `fraction`, from 0 to below 1, spreads those who ask.
    """
    seconds = min(ASK_AGAIN_SECONDS * ASK_AGAIN_GROWTH ** (sendings - 1), ASK_AGAIN_SECONDS_MAX)
    return seconds * (1 + ASK_AGAIN_SPREAD * (2 * fraction - 1))


Heard = Msg | TransportError


class Asker:
    """Asks on one connection; hears what the server says of all of it.

    `forbidden` and `closed` are for the connection to call: whoever waits learns of it at once.
    """

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._waiting: dict[str, set[asyncio.Queue[Heard]]] = {}

    def forbidden(self, subject: str) -> None:
        """Take the server's word that this user may not use a subject."""
        for queue in self._waiting.get(subject.lower(), ()):
            queue.put_nowait(NotPermittedError(f"this user may not use {subject}"))

    def closed(self, why: TransportError) -> None:
        """Take the end of the connection."""
        for queues in self._waiting.values():
            for queue in queues:
                queue.put_nowait(why)

    @contextmanager
    def heard(self, subject: str, queue: asyncio.Queue[Heard]) -> Iterator[None]:
        """Give what is said about `subject` to `queue`."""
        queues = self._waiting.setdefault(subject.lower(), set())
        queues.add(queue)
        try:
            yield
        finally:
            queues.discard(queue)
            if not queues:
                self._waiting.pop(subject.lower(), None)

    async def ask(
        self,
        nc: Client,
        subject: str,
        body: bytes,
        *,
        timeout: float,
        not_yet: Callable[[Msg], RefusedError | None] | None = None,
    ) -> tuple[Msg, int]:
        """Return the answer, and how often it was asked for: the same bytes after each silence.

        Every sending names the same inbox, so that a late answer to the first counts as well.
        "Not ready" and "rate limited" are no answer yet where they say when to ask again; in the
        end, it is what is raised. `not_yet` says it of answers that are not of ours.
        """
        told_not_yet = not_yet or _not_yet
        answers: asyncio.Queue[Heard] = asyncio.Queue()
        inbox = nc.new_inbox()
        refused: RefusedError | None = None
        sendings = 0
        try:
            subscription = await nc.subscribe(inbox, cb=answers.put)
            try:
                with self.heard(subject, answers):
                    async with asyncio.timeout(timeout):
                        while True:
                            await nc.publish(subject, body, reply=inbox)
                            sendings += 1
                            wait = patience(sendings, self._entropy.fraction())
                            while (answer := await _answer(answers, wait)) is not None:
                                if (refused := told_not_yet(answer)) is None:
                                    return answer, sendings
                                if refused.retry_after is None:
                                    raise refused
                                wait = max(wait, refused.retry_after)
            finally:
                if not nc.is_closed:
                    await subscription.unsubscribe()
        except TimeoutError:
            raise refused or NoAnswerError(
                f"no answer on {subject} within {timeout:.3g} s"
            ) from None
        except NatsError as error:
            raise NoAnswerError(f"{subject}: {error}") from error

    async def ask_all(
        self, nc: Client, subject: str, body: bytes, *, timeout: float, gather: float
    ) -> list[Msg]:
        """Return all answers that come until `gather` seconds after the first.

        For what every worker of a kind answers, each for itself. Raises as `ask` does.
        """
        answers: asyncio.Queue[Heard] = asyncio.Queue()
        inbox = nc.new_inbox()
        found: list[Msg] = []
        try:
            subscription = await nc.subscribe(inbox, cb=answers.put)
            try:
                with self.heard(subject, answers):
                    async with asyncio.timeout(timeout):
                        while not found:
                            await nc.publish(subject, body, reply=inbox)
                            if (first := await _answer(answers, ASK_AGAIN_SECONDS_MAX)) is not None:
                                found.append(first)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(gather):
                            while len(found) < ANSWERS_MAX:
                                if (more := await _answer(answers, gather)) is not None:
                                    found.append(more)
            finally:
                if not nc.is_closed:
                    await subscription.unsubscribe()
        except TimeoutError:
            raise NoAnswerError(f"no answer on {subject} within {timeout:.3g} s") from None
        except NatsError as error:
            raise NoAnswerError(f"{subject}: {error}") from error
        return found


async def _answer(answers: asyncio.Queue[Heard], seconds: float) -> Msg | None:
    """Return an answer, or None after a silence, which is also what no responders are."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                answer = await answers.get()
                if not isinstance(answer, Msg):
                    raise answer
                if (answer.headers or {}).get("Status") != "503":
                    return answer
    except TimeoutError:
        return None


def error_of(answer: Msg) -> ErrorTold | None:
    """Return what an answer says no with; None where it is no refusal."""
    try:
        return error_reply.decode(answer.data)
    except error_reply.UnreadableReplyError as error:
        raise NoAnswerError(f"an answer that cannot be read: {error}") from error


def _not_yet(answer: Msg) -> RefusedError | None:
    error = error_of(answer)
    if error is None or error.code not in ("not_ready", "rate_limited"):
        return None
    return RefusedError(error.code, error.message, retry_after=error.retry_after)
