"""Waiting for whichever comes first."""

from __future__ import annotations

import asyncio
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg

CANCEL_AGAIN_SECONDS: Final = 0.1


async def any_set(*events: asyncio.Event, timeout: float) -> None:
    """Return once one of the events is set, or after `timeout` seconds."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancelled(*waits)


async def cancelled(*tasks: asyncio.Task[bool] | asyncio.Task[None]) -> None:
    """Cancel tasks that nobody needs any more, and return once they have ended, however.

    More than once: `asyncio.wait_for` of Python 3.11, in which nats-py waits for its answers, drops
    a cancellation that comes together with the answer (https://github.com/python/cpython/issues/86296).
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=CANCEL_AGAIN_SECONDS)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not complain that nobody did


async def set_by(nc: Client, subject: str) -> asyncio.Event:
    """Return an event that is set whenever something is heard on `subject`.

    A hint and no more: what came while there was no connection was not heard.
    """
    heard = asyncio.Event()

    async def hear(_: Msg) -> None:
        heard.set()

    await nc.subscribe(subject, cb=hear)
    return heard
