"""Leases: a key with a time to live, taken by compare-and-set and renewed at a third of it.

A lease says who *tries*; the ledger's conditions say who *may* (architecture 3.1).
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from nats.aio.client import Client

from events.base import Sequence, Struct, Token, Ulid
from events.subjects import Subjects
from services.buckets import BucketError, WrongRevisionError, bucket

MARKER_SECONDS: Final = 1  # how long the marker of a released lease stays
RETRY_SECONDS: Final = 0.05  # between two tries of one renewal
LEASE_BYTES_MAX: Final = 1024


class LeaderLease(Struct):
    """What the leader's lease holds."""

    node: Token
    term: Sequence  # 0 until `leadership.acquired` is durable
    holder: Ulid  # the run of the process that holds it


class SignerLease(Struct):
    """What a signer's lease holds."""

    signer: Ulid
    node: Token
    slot: Annotated[int, Meta(ge=0)]
    stopping: bool = False  # it gives its partitions back


LeaseValue = LeaderLease | SignerLease


class LeaseLostError(Exception):
    """The lease is held no more, or nobody can tell: its holder must stop acting under it."""


class Lease:
    """One key of the lease bucket, held by this process or not.

    The value names its holder's run, so that a write whose answer got lost can be told from
    another's.
    """

    def __init__(self, nc: Client, subjects: Subjects, key: str, *, ttl_seconds: int) -> None:
        self._bucket = bucket(nc, subjects.lease_bucket)
        self._key = key
        self._ttl = ttl_seconds
        self._lock = asyncio.Lock()
        self._value: LeaseValue | None = None  # as it was acknowledged
        self._sent: LeaseValue | None = None
        self._until = 0.0  # of the loop's clock, which goes on while the process is stopped
        self.revision = 0

    @property
    def held(self) -> bool:
        """Whether the server cannot have let it expire yet: counted from before the last write."""
        return self._value is not None and asyncio.get_running_loop().time() < self._until

    @property
    def value(self) -> LeaseValue | None:
        """What the lease held when this process last wrote it."""
        return self._value

    async def take(self, value: LeaseValue) -> bool:
        """Take the lease if nobody holds it; return whether it is held now. Raises BucketError."""
        async with self._lock:
            assert not self.held, "it is held already"
            last = await self._bucket.get(self._key)
            if last is not None and last.data not in (None, msgspec.json.encode(value)):
                return False  # our own value: an earlier try was stored, its answer got lost
            try:
                await self._write(value, expected=last.revision if last is not None else 0)
            except WrongRevisionError:
                return False
            return True

    async def put(self, value: LeaseValue) -> None:
        """Change what the lease holds, and renew it; raises LeaseLostError."""
        async with self._lock:
            await self._put(value)

    async def renew(self) -> None:
        """Renew what the lease holds; raises LeaseLostError."""
        async with self._lock:  # what it holds is read inside: a renewal never undoes a change
            if self._value is None:
                raise LeaseLostError(f"the lease {self._key} is lost")
            await self._put(self._value)

    async def keep(self) -> None:
        """Renew for ever. Ends only by LeaseLostError, or when it is cancelled."""
        while True:
            await asyncio.sleep(self._ttl / 3)
            await self.renew()

    async def release(self) -> None:
        """Give the lease back at once; if that fails it ends by itself."""
        async with self._lock:
            while self.held:
                try:
                    await self._bucket.purge(
                        self._key, expected=self.revision, ttl_seconds=MARKER_SECONDS
                    )
                except WrongRevisionError:
                    if await self._ours_after_all():
                        continue  # the renewal that was cut off for this was stored
                except BucketError:
                    pass
                break
            self._value = None

    async def _put(self, value: LeaseValue) -> None:
        while self.held:
            try:
                await self._write(value, expected=self.revision)
            except WrongRevisionError:
                if not await self._ours_after_all():
                    break
            except BucketError:
                await asyncio.sleep(RETRY_SECONDS)  # tried again for as long as it is held
            else:
                if self.held:  # else the process was stopped before it heard the answer
                    return
        self._value = None
        raise LeaseLostError(f"the lease {self._key} is lost")

    async def _write(self, value: LeaseValue, *, expected: int) -> None:
        self._sent = value
        sent = asyncio.get_running_loop().time()
        self.revision = await self._bucket.write(
            self._key,
            msgspec.json.encode(value),
            expected=expected,
            ttl_seconds=self._ttl,
            timeout=self._ttl / 3,
        )
        self._value = value
        self._until = sent + self._ttl

    async def _ours_after_all(self) -> bool:
        """Tell whether an earlier write of ours was stored although its answer got lost."""
        try:
            last = await self._bucket.get(self._key)
        except BucketError:
            return True  # not known yet: the loop goes on for as long as the lease is held
        ours = [msgspec.json.encode(mine) for mine in (self._value, self._sent) if mine is not None]
        if last is None or last.data not in ours:
            return False
        self.revision = last.revision
        return True


class Leases(Struct):
    """Who holds what, as the lease bucket says."""

    leader: LeaderLease | None = None
    signers: tuple[SignerLease, ...] = ()
    unreadable: tuple[str, ...] = ()  # keys whose value is none of ours


async def read_leases(nc: Client, subjects: Subjects) -> Leases:
    """Read every lease there is, from the leader's copy. Raises BucketError.

    A replica that lags would show dead signers alive and live ones dead.
    """
    leader: LeaderLease | None = None
    signers: list[SignerLease] = []
    unreadable: list[str] = []
    for value in await bucket(nc, subjects.lease_bucket).all():
        lease = _decode(subjects, value.key, value.data or b"")
        match lease:
            case LeaderLease():
                leader = lease
            case SignerLease():
                signers.append(lease)
            case None:
                unreadable.append(value.key)
    signers.sort(key=lambda lease: lease.signer)
    return Leases(leader=leader, signers=tuple(signers), unreadable=tuple(unreadable))


def _decode(subjects: Subjects, key: str, data: bytes) -> LeaseValue | None:
    """Read a lease, which says of itself what its key says; None for anything else."""
    if len(data) > LEASE_BYTES_MAX:
        return None
    try:
        if key == subjects.leader_lease():
            return msgspec.json.decode(data, type=LeaderLease)
        lease = msgspec.json.decode(data, type=SignerLease)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return lease if key == subjects.signer_lease(lease.signer) else None
