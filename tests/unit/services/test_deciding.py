"""Deciding on `authority`: again after a conflict, never after an outcome that nobody knows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from events.envelope import NewEvent
from events.log import Appended, Grant, LedgerError, NotAcceptedError, OutcomeUnknownError
from events.memory import MemoryLedger
from events.subjects import Subjects
from projections.authority import AuthorityState
from services.deciding import ATTEMPTS_MAX, Decided, Deciding
from services.following import AuthorityFollower
from tests.ledger import acquired

SUBJECTS = Subjects("dc1")


class Unsure(MemoryLedger):
    """Another is quicker now and then; or it fails, or never answers."""

    def __init__(self) -> None:
        super().__init__(SUBJECTS)
        self.failure: LedgerError | None = None
        self.silent = False
        self.rivals = 0  # how many of the next appends another is quicker than
        self.reached = asyncio.Event()

    async def append_authority(
        self,
        events: Sequence[NewEvent],
        *,
        term: int,
        expected_sequence: int,
        grants: Sequence[Grant] = (),
    ) -> Appended:
        self.reached.set()
        if self.silent:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure
        if self.rivals:
            self.rivals -= 1
            await super().append_authority(
                [acquired("rival")], term=term, expected_sequence=expected_sequence
            )
        return await super().append_authority(
            events, term=term, expected_sequence=expected_sequence, grants=grants
        )


def deciding(ledger: Unsure) -> Deciding:
    return Deciding(ledger, AuthorityFollower(ledger, "dc1"))


def next_term(state: AuthorityState) -> Decided:
    return Decided(events=[acquired(term=state.term + 1)], term=state.term + 1)


async def test_what_a_conflict_refuses_is_decided_anew_on_what_came() -> None:
    ledger = Unsure()
    ledger.rivals = ATTEMPTS_MAX - 1

    appended = await deciding(ledger).carry_out(next_term)

    assert appended == Appended(sequence=ATTEMPTS_MAX, messages=1)


async def test_after_many_conflicts_it_is_given_up_and_nothing_is_unknown() -> None:
    ledger = Unsure()
    ledger.rivals = ATTEMPTS_MAX
    tried = deciding(ledger)

    with pytest.raises(LedgerError, match="moved on"):
        await tried.carry_out(next_term)

    assert not tried.unknown


async def test_a_refusal_is_a_definite_answer() -> None:
    ledger = Unsure()
    ledger.failure = NotAcceptedError("full")
    tried = deciding(ledger)

    with pytest.raises(NotAcceptedError):
        await tried.carry_out(next_term)

    assert not tried.unknown


async def test_an_append_given_up_or_cut_off_is_unknown_and_nothing_is_decided_after_it() -> None:
    given_up, cut_off = Unsure(), Unsure()
    given_up.failure = OutcomeUnknownError("no answer")
    cut_off.silent = True
    first, second = deciding(given_up), deciding(cut_off)

    with pytest.raises(OutcomeUnknownError):
        await first.carry_out(next_term)
    task = asyncio.create_task(second.carry_out(next_term))
    await cut_off.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    for tried in (first, second):
        assert tried.unknown
        with pytest.raises(AssertionError, match="unknown"):
            await tried.carry_out(next_term)
