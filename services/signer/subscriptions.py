"""What a signer listens to: the partitions that it holds, and for a while those that it gave up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from events.subjects import Subjects

GIVE_UP_SECONDS: Final = 0.5  # a given-up partition is still heard: its new signer may be late
PENDING_MAX: Final = 8_192  # messages of a subscription that nats-py holds
PENDING_BYTES_MAX: Final = 16 * 1024 * 1024
NO_MAPPING_PARTITION: Final = 0  # who holds it also hears what no mapping took (architecture 3.2)

Heard = Callable[[int, Msg], Awaitable[None]]


class Subscriptions:
    """Plain subscriptions, one a partition: a queue group gives a stopped member its share too."""

    def __init__(self, nc: Client, subjects: Subjects, heard: Heard) -> None:
        self._nc = nc
        self._subjects = subjects
        self._heard = heard
        self._active: dict[str, Subscription] = {}
        self._ends: dict[str, float] = {}  # subject -> when it is given up, by the loop's clock

    async def listen(self, partitions: frozenset[int]) -> None:
        """Listen to these partitions at once; others are given up some time later, by `tidy`."""
        wanted = {self._subjects.work(p): p for p in sorted(partitions)}
        if NO_MAPPING_PARTITION in partitions:
            wanted[self._subjects.sign_all] = NO_MAPPING_PARTITION
        for subject, number in wanted.items():
            self._ends.pop(subject, None)
            if subject not in self._active:
                self._active[subject] = await self._nc.subscribe(
                    subject,
                    cb=partial(self._heard, number),
                    pending_msgs_limit=PENDING_MAX,
                    pending_bytes_limit=PENDING_BYTES_MAX,
                )
        end = asyncio.get_running_loop().time() + GIVE_UP_SECONDS
        for subject in self._active.keys() - wanted.keys():
            self._ends.setdefault(subject, end)

    async def tidy(self) -> None:
        """Give up what nobody needs any more."""
        now = asyncio.get_running_loop().time()
        for subject in [subject for subject, end in self._ends.items() if end <= now]:
            del self._ends[subject]
            await self._active.pop(subject).unsubscribe()

    async def close(self) -> None:
        """Listen to nothing."""
        self._ends.clear()
        if self._nc.is_closed:
            self._active.clear()
        while self._active:
            await self._active.popitem()[1].unsubscribe()
