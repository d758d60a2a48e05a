"""Which signer signs for which partitions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ulid import ULID

from events.authority import CAConfig
from events.signers import Assignment
from services.root_manager.assignment import SignerRun, assign, usable

KEY = "ab" * 32
NOON = datetime(2026, 8, 1, 12, tzinfo=UTC)


def run_id(number: int) -> str:
    """Return the id of the `number`-th run: later runs have higher ids."""
    return str(ULID.from_datetime(NOON + timedelta(seconds=number)))[:10] + "0" * 16


def run(number: int, *, slot: int | None = None, stopping: bool = False) -> SignerRun:
    return SignerRun(
        signer=run_id(number),
        node="n",
        slot=number if slot is None else slot,
        stopping=stopping,
    )


def table(
    current: Iterable[Assignment],
    alive: Iterable[SignerRun],
    rate: float = 64.0,
    concurrent: int = 0,
) -> tuple[Assignment, ...]:
    held = {assignment.signer: assignment for assignment in current}
    config = CAConfig(csr_max_per_second=rate, csr_max_concurrent=concurrent)
    return assign(held, alive, signing_key_id=KEY, config=config)


def partitions(assignments: Iterable[Assignment]) -> dict[str, tuple[int, ...]]:
    return {assignment.signer: assignment.partitions for assignment in assignments}


def owners(assignments: Iterable[Assignment]) -> dict[int, str]:
    return {p: a.signer for a in assignments for p in a.partitions}


def test_the_first_signer_gets_everything() -> None:
    (only,) = table([], [run(1)])

    assert only.partitions == tuple(range(64))
    assert (only.signer, only.node, only.slot) == (run_id(1), "n", 1)
    assert only.signing_key_id == KEY


def test_nobody_alive_nobody_signs() -> None:
    assert table(table([], [run(1)]), []) == ()


def test_a_second_signer_takes_half_and_the_first_keeps_the_other_half() -> None:
    first = table([], [run(1)])

    both = table(first, [run(1), run(2)])

    assert partitions(both) == {
        run_id(1): tuple(range(32)),
        run_id(2): tuple(range(32, 64)),
    }


def test_a_restarted_signer_takes_its_predecessors_partitions_and_nothing_else_moves() -> None:
    before = table([], [run(1, slot=0), run(2, slot=1), run(3, slot=2)])

    after = table(before, [run(1, slot=0), run(3, slot=2), run(9, slot=1)])

    assert partitions(after)[run_id(9)] == partitions(before)[run_id(2)]
    assert partitions(after)[run_id(1)] == partitions(before)[run_id(1)]
    assert partitions(after)[run_id(3)] == partitions(before)[run_id(3)]


def test_a_successor_takes_over_at_once_while_its_predecessors_lease_still_stands() -> None:
    before = table([], [run(1, slot=0), run(2, slot=1)])

    after = table(before, [run(1, slot=0), run(2, slot=1), run(9, slot=1)])

    assert partitions(after) == {
        run_id(1): partitions(before)[run_id(1)],
        run_id(9): partitions(before)[run_id(2)],
    }


def test_a_stopping_signer_gives_its_partitions_back() -> None:
    before = table([], [run(1), run(2)])

    after = table(before, [run(1, stopping=True), run(2)])

    assert partitions(after) == {run_id(2): tuple(range(64))}


def test_the_last_signer_that_stops_leaves_nobody() -> None:
    assert table(table([], [run(1)]), [run(1, stopping=True)]) == ()


def test_rate_shares_follow_the_partitions_and_sum_up_to_the_limit() -> None:
    shares = [a.rate_per_second for a in table([], [run(1), run(2), run(3)], rate=50.0)]

    assert shares == [50 * 22 / 64, 50 * 21 / 64, 50 * 21 / 64]
    assert sum(shares) == 50.0


def test_no_limit_stays_no_limit() -> None:
    assert {a.rate_per_second for a in table([], [run(1), run(2)], rate=0.0)} == {0.0}


def test_a_signer_without_a_partition_has_no_place_in_the_table() -> None:
    """Its share of the rate would be 0, which means no limit."""
    found = table([], [run(number) for number in range(999)], rate=50.0)

    assert len(found) == 64
    assert min(a.rate_per_second for a in found) == 50 / 64


def test_39_the_number_at_once_is_shared_out_to_no_more_signers_than_it_has() -> None:
    """39. Concurrency limit 1: over all signers."""
    alive = [run(1), run(2), run(3)]

    assert [a.concurrent for a in table([], alive, rate=0.0, concurrent=8)] == [3, 3, 2]
    (only,) = table([], alive, rate=0.0, concurrent=1)
    assert (only.concurrent, only.partitions) == (1, tuple(range(64)))
    first, second = table(table([], alive[1:], rate=0.0), alive, rate=0.0, concurrent=2)
    assert (first.signer, second.signer) == (run_id(2), run_id(3)), "who has partitions keeps them"
    assert (first.concurrent, second.concurrent) == (1, 1)


def test_the_rate_wins_over_the_number_at_once() -> None:
    """As in Consul (section 3.9)."""
    found = table([], [run(1), run(2)], rate=10.0, concurrent=1)

    assert [(a.rate_per_second, a.concurrent) for a in found] == [(5.0, 0), (5.0, 0)]


def test_the_smallest_limit_is_no_absence_of_one() -> None:
    found = table([], [run(number) for number in range(64)], rate=5e-324)

    assert min(a.rate_per_second for a in found) > 0


runs = st.lists(
    st.builds(
        run,
        st.integers(0, 30),
        slot=st.integers(0, 8),
        stopping=st.sampled_from([False, False, False, True]),
    ),
    max_size=12,
    unique_by=lambda each: each.signer,
)


def keepable(current: Mapping[str, Assignment], alive: Iterable[SignerRun]) -> int:
    """Return how many partitions can stay where they are, or with a successor, in balance."""
    live = usable(alive)
    places = {(each.node, each.slot): each.signer for each in live}
    heirs = {each.signer: each.signer for each in live}
    sizes = Counter[str]()
    for signer, assignment in current.items():
        heir = heirs.get(signer) or places.get((assignment.node, assignment.slot))
        if heir:
            sizes[heir] += len(assignment.partitions)
    share, odd = divmod(64, len(live))
    above = sum(1 for each in live if sizes[each.signer] > share)
    return sum(min(sizes[each.signer], share) for each in live) + min(above, odd)


limits = st.tuples(
    st.sampled_from([0.0, 1e-9, 0.1, 10.0, 50.0, 1e9]), st.sampled_from([0, 1, 2, 5, 1000])
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(runs, limits), min_size=1, max_size=6))
def test_the_shares_sum_up_to_the_limit_whoever_comes_and_goes_and_whatever_is_configured(
    history: list[tuple[list[SignerRun], tuple[float, int]]],
) -> None:
    current: tuple[Assignment, ...] = ()
    for alive, (rate, concurrent) in history:
        current = table(current, alive, rate, concurrent)
        assert table(current, alive, rate, concurrent) == current, "again is no change"
        if not usable(alive):
            assert current == ()
            continue
        rates = [a.rate_per_second for a in current]
        at_once = [a.concurrent for a in current]
        assert Counter(p for a in current for p in a.partitions) == Counter(range(64))
        assert sum(rates) == pytest.approx(rate, rel=1e-12)
        assert all(rates) == (rate > 0), "0 is no limit"
        if rate > 0 or concurrent == 0:
            assert set(at_once) == {0}
        else:
            assert sum(at_once) == concurrent
            assert min(at_once) > 0, "0 is no limit"


@settings(max_examples=300, deadline=None)
@given(st.lists(runs, min_size=1, max_size=6))
def test_every_partition_has_one_signer_in_balance_and_as_few_move_as_can(
    history: list[list[SignerRun]],
) -> None:
    current: tuple[Assignment, ...] = ()
    for alive in history:
        after = table(current, alive)
        held = {assignment.signer: assignment for assignment in current}
        live = usable(alive)
        assert after == table(current, reversed(alive)), "the order of the leases decided"
        assert after == table(after, alive), "the same signers, and still something moved"
        if not live:
            assert after == ()
        else:
            sizes = [len(a.partitions) for a in after]
            assert Counter(p for a in after for p in a.partitions) == Counter(range(64))
            assert max(sizes) - min(sizes) <= 1
            assert {a.signer for a in after} == {each.signer for each in live}
            assert all(list(a.partitions) == sorted(a.partitions) for a in after)
            places = {each.signer: (each.node, each.slot) for each in live}
            before = owners(current)
            kept = sum(
                1
                for partition, owner in owners(after).items()
                if partition in before
                and (
                    before[partition] == owner
                    or (
                        before[partition] not in places
                        and places[owner]
                        == (held[before[partition]].node, held[before[partition]].slot)
                    )
                )
            )
            assert kept == keepable(held, alive)
        current = after
