"""When a node leads, and when its term ends."""

from __future__ import annotations

import pytest

from events.leadership import LeadershipAcquired, LeadershipReleased
from projections.authority import AuthorityState, Leader
from services.leader_elector import decide


def state(*, term: int = 4, leader: Leader | None = None) -> AuthorityState:
    return AuthorityState(datacenter="dc1", position=9, settled=9, term=term, leader=leader)


def test_a_new_term_is_higher_than_all_before_also_when_nobody_leads() -> None:
    assert decide.acquire(state(), node="a", lease_revision=7) == LeadershipAcquired(
        node="a", term=5, lease_revision=7
    )


def test_the_first_term_is_1() -> None:
    empty = AuthorityState(datacenter="dc1")

    assert decide.acquire(empty, node="a", lease_revision=1).term == 1


def test_a_leader_gives_up_its_own_term() -> None:
    leading = state(leader=Leader(node="a", term=4))

    assert decide.release(leading, node="a", term=4, reason="shutdown") == LeadershipReleased(
        node="a", term=4, reason="shutdown"
    )


@pytest.mark.parametrize(
    "leader", [None, Leader(node="b", term=4), Leader(node="a", term=5), Leader(node="a", term=3)]
)
def test_nobody_ends_a_term_that_is_not_exactly_its_own(leader: Leader | None) -> None:
    assert decide.release(state(leader=leader), node="a", term=4, reason="lease_lost") is None
