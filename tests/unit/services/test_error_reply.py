"""What a refusal looks like on the wire, and that both ends mean the same by it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import error_reply
from services.error_reply import ErrorTold, UnreadableReplyError
from services.refusals import RefusedError


def test_a_refusal_tells_code_and_message_in_body_and_headers() -> None:
    body, headers = error_reply.encode(RefusedError("rate_limited", "later", retry_after=0.5))

    assert json.loads(body) == {
        "error": {"code": "rate_limited", "message": "later", "retry_after": 0.5}
    }
    assert headers == {
        "Nats-Service-Error": "later",
        "Nats-Service-Error-Code": "rate_limited",
    }


def test_without_a_wait_that_helps_none_is_told() -> None:
    body, _ = error_reply.encode(RefusedError("malformed", "no"))

    assert json.loads(body) == {"error": {"code": "malformed", "message": "no"}}


@given(st.text())
def test_no_text_adds_a_header_line(message: str) -> None:
    _, headers = error_reply.encode(RefusedError("malformed", message))

    assert headers["Nats-Service-Error"].isascii()
    assert headers["Nats-Service-Error"].isprintable()


@given(st.text(st.characters(exclude_categories=["Cs"])), st.none() | st.floats(0, 1e9))
def test_a_client_reads_what_was_told(message: str, retry_after: float | None) -> None:
    body, _ = error_reply.encode(RefusedError("not_ready", message, retry_after=retry_after))

    told = ErrorTold(code="not_ready", message=message, retry_after=retry_after)
    assert error_reply.decode(body) == told


@pytest.mark.parametrize("body", [b"", b"{}", b'{"SerialNumber": "01"}', b"\xff", b'["error"]'])
def test_another_answer_is_no_refusal(body: bytes) -> None:
    assert error_reply.decode(body) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"error"',
        b'{"error": null}',
        b'{"error": {"code": "nonsense", "message": "no"}}',
        b'{"error": {"code": "internal"}}',
        b'{"error": ' + b"[" * 100_000,
        b'{"error": {"code": "internal", "message": "\xff"}}',
    ],
)
def test_a_refusal_that_cannot_be_read_is_said(body: bytes) -> None:
    with pytest.raises(UnreadableReplyError):
        error_reply.decode(body)
