"""Waiting for whichever comes first."""

from __future__ import annotations

import asyncio

from nats.aio.client import Client
from nats.aio.msg import Msg


async def any_set(*events: asyncio.Event, timeout: float) -> None:
    """Return once one of the events is set, or after `timeout` seconds."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancelled(*waits)


async def cancelled(*tasks: asyncio.Task[bool] | asyncio.Task[None]) -> None:
    """Cancel tasks that nobody needs any more, and wait until they have ended, however."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def set_by(nc: Client, subject: str) -> asyncio.Event:
    """Return an event that is set whenever something is heard on `subject`.

    A hint and no more: what came while there was no connection was not heard.
    """
    heard = asyncio.Event()

    async def hear(_: Msg) -> None:
        heard.set()

    await nc.subscribe(subject, cb=hear)
    return heard
