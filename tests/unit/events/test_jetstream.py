"""What JetStream's answers to an append mean: the table of nats.md, section 11, row by row."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.jetstream import Accepted, AlreadyHeld, Answer, Later, Moved, Refused, read_answer


def error(err_code: int, description: str = "", *, code: int = 400) -> bytes:
    told = {"code": code, "err_code": err_code, "description": description}
    return json.dumps({"error": told, "stream": "CA_LEDGER_dc1", "seq": 0}).encode()


@pytest.mark.parametrize(
    ("data", "meaning"),
    [
        (
            b'{"stream":"L","seq":7}',
            Accepted(sequence=7, messages=1, duplicate=False),
        ),
        (
            b'{"stream":"L","seq":7,"duplicate": true}',
            Accepted(sequence=7, messages=1, duplicate=True),
        ),
        (
            b'{"stream":"L","seq":7,"batch":"b","count":3}',
            Accepted(sequence=7, messages=3, duplicate=False),
        ),
        (error(10071, "wrong last sequence: 41"), Moved(last=41)),
        (error(10071, "wrong last sequence: 0"), Moved(last=0)),
        (error(10071, "somehow else"), Moved(last=0)),
        (error(10201, "atomic publish contains duplicate message id"), AlreadyHeld()),
    ],
)
def test_a_definite_answer_says_where_it_is_or_what_came_instead(
    data: bytes, meaning: Answer
) -> None:
    assert read_answer(data) == meaning


@pytest.mark.parametrize(
    "data",
    [
        error(10158, "duplicate message id is in process", code=409),
        error(10164, "maximum in flight on subject", code=409),
        error(10176, "atomic publish batch is incomplete"),
        error(10210, "too many atomic publish in flight", code=429),
        error(10008, "JetStream system temporarily unavailable", code=503),
        error(10009, "JetStream cluster can not handle request", code=500),
    ],
)
def test_what_may_be_otherwise_in_a_moment_is_sent_again(data: bytes) -> None:
    assert isinstance(read_answer(data), Later)


@pytest.mark.parametrize(
    "data",
    [
        error(10077, "maximum bytes exceeded", code=503),
        error(10023, "insufficient resources", code=503),
        error(10060, "expected stream does not match"),
        error(10097, "header size exceeds maximum allowed of 64k"),
        error(99999, "an error of tomorrow"),
    ],
)
def test_what_waiting_does_not_change_is_refused(data: bytes) -> None:
    assert isinstance(read_answer(data), Refused)


@given(st.binary())
def test_what_cannot_be_read_says_nothing(data: bytes) -> None:
    assert isinstance(read_answer(data), Later)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"seq":0}', b'{"seq":-1}', b'{"seq":"7"}'])
def test_an_answer_without_a_sequence_says_nothing(data: bytes) -> None:
    assert isinstance(read_answer(data), Later)
