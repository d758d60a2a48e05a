"""Who asked, and where the answer may go."""

from __future__ import annotations

import json

import pytest

from services.nats_access.asker import may_answer, requester_of

USER = "U" + "A" * 55


def test_the_requester_is_the_user_that_the_server_names() -> None:
    told = json.dumps({"acc": "A1", "user": USER, "jwt": "e" * 2_000, "kind": "Client"})

    assert requester_of({"Nats-Request-Info": told}) == USER


@pytest.mark.parametrize("told", ["", "{", "[]", "{}", '{"user": 1}', '{"user": ""}', "[" * 10_000])
def test_what_names_no_user_is_no_requester(told: str) -> None:
    assert requester_of({"Nats-Request-Info": told}) is None


def test_a_requester_has_a_bounded_length() -> None:
    assert requester_of({"Nats-Request-Info": json.dumps({"user": "U" * 1_000})}) is None


def test_without_the_header_there_is_no_requester() -> None:
    assert requester_of(None) is None
    assert requester_of({"Other": "x"}) is None


@pytest.mark.parametrize("reply", ["_INBOX.web.abc", "_R_.abc"])
def test_inboxes_are_answered(reply: str) -> None:
    assert may_answer(reply)


@pytest.mark.parametrize(
    "reply", ["", "ca.dc1.ledger.authority", "$JS.API.STREAM.DELETE.X", "_INBOXES.a", "x._INBOX.a"]
)
def test_nothing_else_is_answered(reply: str) -> None:
    """A sender's reply subject is checked by nobody else (nats.md, section 10)."""
    assert not may_answer(reply)
