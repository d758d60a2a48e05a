"""What is answered of revocation lists, and how often it is made."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from projections.authority import AuthorityState, Crl
from services.refusals import RefusedError
from services.root_manager.questions import LISTS_BYTES_MAX, ListAnswers
from tests.virtual import SUBJECTS, Datacenter


def lists(answer: bytes) -> dict[str, Any]:
    """Return the lists of an answer by issuer."""
    return {told["IssuerKeyID"]: told for told in json.loads(answer)["Lists"]}


def with_list(state: AuthorityState, key_id: str, size: int) -> AuthorityState:
    """Return the same with a list of so many bytes, which are nothing."""
    issued = replace(state.crls[key_id].issued, crl=bytes(size))
    return replace(state, crls={**state.crls, key_id: Crl(issued=issued, sequence=1)})


async def test_an_answer_is_made_once_for_a_state(dc: Datacenter) -> None:
    answers, before = ListAnswers(), dc.state
    asked = {key_id: json.dumps({"Issuer": key_id}).encode() for key_id in before.crls}
    everything = answers.answer(before, b"")

    assert answers.answer(before, b"{}") is everything
    for key_id, body in asked.items():
        one = answers.answer(before, body)
        assert answers.answer(before, body) is one
        assert lists(one) == {key_id: lists(everything)[key_id]}
    assert answers.answer(before, b"") is everything

    shown = await dc.sign()
    await dc.command(SUBJECTS.leaves_revoke, Leaves={"Serials": [shown.leaf.serial]})
    after = answers.answer(dc.state, b"")
    assert lists(after)[shown.leaf.issuer_key_id]["Revoked"] == 1
    assert json.loads(after)["LedgerSequence"] == dc.state.position
    one = answers.answer(dc.state, asked[shown.leaf.issuer_key_id])
    assert lists(one)[shown.leaf.issuer_key_id]["Revoked"] == 1


async def test_what_is_unknown_is_refused_each_time(dc: Datacenter) -> None:
    answers = ListAnswers()
    for body, code in ((b'{"Issuer": "%s"}' % (b"0" * 64), "not_found"), (b"[]", "malformed")):
        for _ in range(2):
            with pytest.raises(RefusedError) as refused:
                answers.answer(dc.state, body)
            assert refused.value.code == code


async def test_a_list_that_does_not_fit_leaves_room_for_those_that_do(dc: Datacenter) -> None:
    first, second = dc.state.crls
    for size, is_there in ((LISTS_BYTES_MAX * 3 // 4, False), (LISTS_BYTES_MAX // 2, True)):
        told = lists(ListAnswers().answer(with_list(dc.state, first, size), b""))

        assert ("CRL" in told[first], "CRL" in told[second]) == (is_there, True)
        assert told[first]["LedgerSequence"] == 1
    alone = ListAnswers().answer(
        with_list(dc.state, first, 600_000), b'{"Issuer": "%s"}' % first.encode()
    )
    assert "CRL" in lists(alone)[first]
