"""What a signer keeps of a request."""

from __future__ import annotations

import json

import pytest

from services.nats_access.asker import requester_of
from services.signer.request import BODY_BYTES_MAX
from services.signer.work import Work, body_of

USER = "U" + "A" * 55


@pytest.mark.parametrize(
    ("reply", "headers", "nameless"),
    [
        ("_R_.abc", None, True),
        ("_R_.abc", {"Nats-Request-Info": "{"}, True),
        ("_R_.abc", {"Nats-Request-Info": json.dumps({"user": USER})}, False),
        ("_INBOX.web.abc", None, False),
    ],
)
def test_from_another_account_nobody_asks_without_a_name(
    reply: str, headers: dict[str, str] | None, nameless: bool
) -> None:
    work = Work(
        subject="ca",
        partition=0,
        body=b"",
        requester=requester_of(headers),
        heard=0.0,
        replies=[reply],
    )

    assert work.nameless == nameless


def test_of_a_body_that_is_too_large_no_more_is_kept_than_shows_it() -> None:
    assert len(body_of(bytes(1_000_000))) == BODY_BYTES_MAX + 1
    assert body_of(b"csr") == b"csr"
