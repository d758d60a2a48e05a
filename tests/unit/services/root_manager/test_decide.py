"""What the CA manager decides, and that nobody but the leader decides anything."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from events.authority import CAConfig, CAConfigured, RootActivated
from events.signers import GrantGiven, GrantWithdrawn, SignersAssigned
from projections.authority import AuthorityState, Leader, SignerGrant
from services.root_manager.assignment import SignerRun
from services.root_manager.commands import AssignSigners, Command, Initialise
from services.root_manager.decide import NOTHING, Acting, Decision, decide
from tests.unit.services.root_manager.keys import intermediate_of, made, signing_key_of
from tests.unit.services.root_manager.test_assignment import run, run_id

ACTING = Acting(node="a", term=3)
LED = AuthorityState(datacenter="dc1", term=3, leader=Leader(node="a", term=3))


@pytest.fixture
async def initialise() -> Initialise:
    return await made(CAConfig(csr_max_per_second=64.0))


def initialised(authority: Initialise) -> AuthorityState:
    return replace(
        LED,
        configuration=authority.configured,
        issuer_key_id=signing_key_of(authority).key_id,
    )


def assigned(state: AuthorityState, decision: Decision, *, sequence: int = 10) -> AuthorityState:
    """Return the state once the decision is recorded."""
    (event,) = decision.events
    assert isinstance(event, SignersAssigned)
    signers = {
        a.signer: SignerGrant(assignment=a, sequence=sequence + i)
        for i, a in enumerate(event.assignments)
    }
    return replace(state, signers=signers)


def test_an_empty_ledger_becomes_an_authority_in_one_entry(initialise: Initialise) -> None:
    decision = decide(LED, ACTING, initialise)

    assert decision.events == (
        initialise.configured,
        initialise.root_key,
        initialise.root,
        RootActivated(root_id=initialise.root.root_id),
        signing_key_of(initialise),
        intermediate_of(initialise),
    )
    assert decision.grants == ()


def test_an_authority_is_made_only_once(initialise: Initialise) -> None:
    assert decide(initialised(initialise), ACTING, initialise) == NOTHING


@pytest.mark.parametrize(
    "leader", [None, Leader(node="b", term=3), Leader(node="a", term=4), Leader(node="a", term=2)]
)
@pytest.mark.parametrize("what", ["initialise", "assign"])
def test_nothing_is_decided_unless_the_ledger_says_what_the_lease_says(
    initialise: Initialise, leader: Leader | None, what: str
) -> None:
    commands: dict[str, tuple[AuthorityState, Command]] = {
        "initialise": (LED, initialise),
        "assign": (initialised(initialise), AssignSigners(alive=(run(1),))),
    }
    state, command = commands[what]

    assert decide(state, ACTING, command) != NOTHING
    assert decide(replace(state, leader=leader), ACTING, command) == NOTHING


def test_nobody_signs_for_an_authority_that_is_not_made_yet() -> None:
    assert decide(LED, ACTING, AssignSigners(alive=(run(1),))) == NOTHING


def test_a_grant_is_given_to_each_signer_whose_assignment_changes(initialise: Initialise) -> None:
    state = initialised(initialise)
    first = decide(state, ACTING, AssignSigners(alive=(run(1),)))
    state = assigned(state, first)

    second = decide(state, ACTING, AssignSigners(alive=(run(1), run(2))))

    (event,) = second.events
    assert isinstance(event, SignersAssigned)
    assert event.granted == (run_id(1), run_id(2))
    assert event.withdrawn == ()
    assert event.reason == "joined"
    assert second.grants == tuple(GrantGiven(assignment=a) for a in event.assignments)


def test_the_same_signers_again_change_nothing(initialise: Initialise) -> None:
    command = AssignSigners(alive=(run(1), run(2)))
    state = initialised(initialise)
    state = assigned(state, decide(state, ACTING, command))

    assert decide(state, ACTING, command) == NOTHING


def test_grants_stand_in_the_order_that_the_entry_names(initialise: Initialise) -> None:
    state = initialised(initialise)
    state = assigned(state, decide(state, ACTING, AssignSigners(alive=(run(1), run(2), run(3)))))

    decision = decide(state, ACTING, AssignSigners(alive=(run(2), run(3, stopping=True), run(4))))

    (event,) = decision.events
    assert isinstance(event, SignersAssigned)
    assert event.granted == (run_id(2), run_id(4))
    assert event.withdrawn == (run_id(1), run_id(3))
    assert [type(grant) for grant in decision.grants] == [
        GrantGiven,
        GrantGiven,
        GrantWithdrawn,
        GrantWithdrawn,
    ]


@pytest.mark.parametrize(
    ("alive", "reason"),
    [
        ((run(2),), "lost"),
        ((run(1, stopping=True), run(2)), "stopped"),
        ((run(2), run(7, slot=1)), "replaced"),
        ((run(1), run(2), run(7, slot=1)), "replaced"),
    ],
)
def test_a_withdrawn_grant_says_why(
    initialise: Initialise, alive: tuple[SignerRun, ...], reason: str
) -> None:
    state = initialised(initialise)
    state = assigned(state, decide(state, ACTING, AssignSigners(alive=(run(1), run(2)))))

    decision = decide(state, ACTING, AssignSigners(alive=alive))

    assert GrantWithdrawn(signer=run_id(1), reason=reason) in decision.grants  # type: ignore[arg-type]  # one of the reasons, from the table above


def test_the_last_signers_grant_is_withdrawn_when_it_is_lost(initialise: Initialise) -> None:
    state = initialised(initialise)
    state = assigned(state, decide(state, ACTING, AssignSigners(alive=(run(1),))))

    decision = decide(state, ACTING, AssignSigners(alive=()))

    (event,) = decision.events
    assert isinstance(event, SignersAssigned)
    assert (event.assignments, event.withdrawn, event.reason) == ((), (run_id(1),), "left")


def test_a_new_signing_key_or_rate_changes_every_grant(initialise: Initialise) -> None:
    command = AssignSigners(alive=(run(1), run(2)))
    state = initialised(initialise)
    state = assigned(state, decide(state, ACTING, command))
    configured = state.configuration
    assert isinstance(configured, CAConfigured)
    config = replace(configured.config, csr_max_per_second=10.0)

    for changed in (
        replace(state, issuer_key_id="cd" * 32),
        replace(state, configuration=replace(configured, config=config)),
    ):
        (event,) = decide(changed, ACTING, command).events
        assert isinstance(event, SignersAssigned)
        assert event.granted == (run_id(1), run_id(2))
        assert event.reason == "authority_changed"
