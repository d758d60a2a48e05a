"""Hints are whole command lines: what was typed, with what is to be said instead."""

from __future__ import annotations

import shlex

import pytest

from services.cli.again import again, with_values


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        (
            "sign service web --out z --data d",
            "caledger sign service web --out z --data d --request-id ID",
        ),
        (
            "sign --request-id a service web",
            "caledger sign service web --request-id ID",
        ),
        (
            "ca rotate --request-id=a --user admin",
            "caledger ca rotate --user admin --request-id ID",
        ),
        ("sign service 'a b' -- --x", "caledger sign service 'a b' --request-id ID -- --x"),
        ("sign service -- --request-id", "caledger sign service --request-id ID -- --request-id"),
    ],
)
def test_a_command_is_typed_again_as_it_was_with_its_id(typed: str, hint: str) -> None:
    assert again("--request-id", "ID", typed=shlex.split(typed)) == hint


def test_a_durable_request_is_fetched_from_where_it_was_submitted() -> None:
    typed = ["sign", "agent", "node-1", "--durable", "--out", "z", "--request-id", "ID"]

    hint = again("--fetch", "ID", without=("--durable", "--request-id"), typed=typed)

    assert hint == "caledger sign agent node-1 --out z --fetch ID"


def test_times_that_were_said_relative_to_now_are_said_as_they_were() -> None:
    typed = shlex.split("ca revoke --issued-between 2h now --yes")
    fixed = with_values("--issued-between", "T1", "T2", typed=typed)

    assert shlex.join(fixed) == "ca revoke --issued-between T1 T2 --yes"
    assert with_values("--issued-between", "T1", "T2", typed=["ca", "revoke"]) == ["ca", "revoke"]
