"""A decision as it is recorded: what was decided together is found together."""

from __future__ import annotations

from events.authority import CAConfig
from events.signers import GrantGiven, GrantWithdrawn, SignersAssigned
from projections.authority import AuthorityState, Leader
from services.clock import SystemClock, SystemEntropy
from services.root_manager.decide import Acting, Decision, decide
from services.root_manager.stamped import stamped
from services.stamping import Stamper
from tests.unit.services.root_manager.keys import made
from tests.unit.services.root_manager.test_assignment import run_id
from tests.whole_ledger import assignment

ACTING = Acting(node="a", term=3)
LED = AuthorityState(datacenter="dc1", term=3, leader=Leader(node="a", term=3))


def stamper() -> Stamper:
    return Stamper("/caledger/dc1/root-manager/a", SystemClock(), SystemEntropy())


async def test_all_events_of_a_decision_name_the_first_of_them() -> None:
    command = await made(CAConfig(csr_max_per_second=64.0))

    events, grants = stamped(decide(LED, ACTING, command), stamper(), datacenter="dc1")

    assert len(events) > 3
    assert [each.correlation_id for each in events] == [None, *[events[0].id] * (len(events) - 1)]
    assert grants == []


def test_grants_come_in_the_order_decided_and_name_the_event_that_they_follow_from() -> None:
    table = assignment(run_id(1), range(64))
    event = SignersAssigned(
        assignments=(table,), granted=(run_id(1),), withdrawn=(run_id(2),), reason="joined"
    )
    decision = Decision(
        events=(event,),
        grants=(
            GrantGiven(assignment=table),
            GrantWithdrawn(signer=run_id(2), reason="lost"),
        ),
    )

    (first,), grants = stamped(decision, stamper(), datacenter="dc1")

    assert (first.event, first.subject, first.correlation_id) == (event, "dc1", None)
    assert [(each.signer, each.event.event) for each in grants] == [
        (run_id(1), decision.grants[0]),
        (run_id(2), decision.grants[1]),
    ]
    assert {each.event.correlation_id for each in grants} == {first.id}
    assert [each.event.subject for each in grants] == [run_id(1), run_id(2)]
