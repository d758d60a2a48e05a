"""Following `authority`: an append that is not whole is waited for, and never for ever."""

from __future__ import annotations

import asyncio

from events.append import Append, Message
from events.envelope import encode_entry
from events.memory import MemoryLedger
from events.signers import SignersAssigned
from events.subjects import Subjects
from services import following
from services.following import AuthorityFollower
from tests.factories import NOW
from tests.ledger import acquired, assigned, new, ulid

SUBJECTS = Subjects("dc1")
LIMIT_SECONDS = following.TORN_SECONDS + 8


class TornLedger(MemoryLedger):
    """A ledger to which somebody writes single messages, whatever an entry says of its append."""

    async def put(self, subject: str, data: bytes) -> int:
        append = Append(
            messages=(Message(subject=subject, data=data),),
            message_id=ulid(),
            condition_subject=subject,
            condition_sequence=self._last.get(subject, 0),
        )
        return (await self._append(append, [NOW])).sequence

    async def put_torn(self, *signers: str) -> int:
        """Store an authority entry without the grants that it says follow."""
        events, _ = assigned(signers)
        return await self.put(
            SUBJECTS.authority,
            encode_entry(
                events,
                term=1,
                expected_sequence=await self.last_authority(),
                messages=1 + len(signers),
            ),
        )

    def lose(self, sequence: int) -> None:
        """Forget a message, the last one, as a restarted server removes half of a batch."""
        assert self._stored.pop().sequence == sequence
        self._last = {stored.subject: stored.sequence for stored in self._stored}


def follow(ledger: MemoryLedger) -> AuthorityFollower:
    return AuthorityFollower(ledger, "dc1")


async def test_an_entry_with_a_false_number_of_messages_holds_nobody_up() -> None:
    ledger = TornLedger(SUBJECTS)
    data = encode_entry([acquired()], term=1, expected_sequence=0, messages=1000)
    await ledger.put(SUBJECTS.authority, data)
    follower = follow(ledger)

    async with asyncio.timeout(following.TORN_SECONDS / 2):
        state = await follower.catch_up()

    assert state.last_void is not None
    assert (state.position, state.leader, follower.torn) == (1, None, False)


async def test_an_append_that_never_becomes_whole_is_waited_for_only_so_long() -> None:
    """Nobody appends where everybody waits, so the wait has to end by itself."""
    ledger = TornLedger(SUBJECTS)
    sequence = await ledger.put_torn(ulid(), ulid())
    follower = follow(ledger)

    async with asyncio.timeout(LIMIT_SECONDS):
        state = await follower.catch_up()

    assert (state.position, follower.torn) == (sequence, True)
    async with asyncio.timeout(following.TORN_SECONDS / 2):  # it was waited for once
        assert await follower.catch_up() == state


async def test_the_next_authority_entry_settles_an_append_and_takes_back_its_grants() -> None:
    ledger = TornLedger(SUBJECTS)
    sequence = await ledger.put_torn(ulid())
    follower = follow(ledger)
    async with asyncio.timeout(LIMIT_SECONDS):
        torn = await follower.catch_up()
        await ledger.append_authority([acquired()], term=1, expected_sequence=sequence)
        state = await follower.catch_up()

    assert torn.signers
    assert (dict(state.signers), follower.torn) == ({}, False)
    assert await follow(ledger).catch_up() == state


async def test_an_append_that_is_completed_later_is_whole() -> None:
    ledger, signer = TornLedger(SUBJECTS), ulid()
    await ledger.put_torn(signer)
    follower = follow(ledger)
    async with asyncio.timeout(LIMIT_SECONDS):
        await follower.catch_up()
        _, grants = assigned([signer])
        await ledger.put(SUBJECTS.grant(signer), encode_entry([grants[0].event]))
        state = await follower.catch_up()

    assert (set(state.signers), follower.torn) == ({signer}, False)


async def test_an_append_that_is_removed_was_never_there() -> None:
    """A single server that restarts with a full disk takes back what it has shown half of; and
    what comes in its place has the same sequence."""
    ledger = TornLedger(SUBJECTS)
    sequence = await ledger.put_torn(ulid())
    follower = follow(ledger)
    async with asyncio.timeout(LIMIT_SECONDS):
        await follower.catch_up()
        ledger.lose(sequence)
        gone = await follower.catch_up()
        await ledger.append_authority([acquired()], term=1, expected_sequence=0)
        state = await follower.catch_up()

    assert gone.position == 0
    assert (state.position, state.term, dict(state.signers)) == (sequence, 1, {})
    assert state == await follow(ledger).catch_up()


async def test_every_entry_is_told_of() -> None:
    ledger = MemoryLedger(SUBJECTS)
    await ledger.append_authority([acquired()], term=1, expected_sequence=0)
    await ledger.append_authority([acquired(term=2)], term=2, expected_sequence=1)
    told: list[int] = []
    follower = AuthorityFollower(ledger, "dc1", folded=lambda state: told.append(state.term))

    await follower.catch_up()
    await follower.catch_up()

    assert told == [1, 2]


async def test_a_table_without_changed_grants_is_whole_at_once() -> None:
    ledger = MemoryLedger(SUBJECTS)
    event = new(SignersAssigned(assignments=(), granted=(), withdrawn=(), reason="left"))
    await ledger.append_authority([event], term=1, expected_sequence=0)
    follower = follow(ledger)

    assert (await follower.catch_up()).position == 1
    assert not follower.torn
