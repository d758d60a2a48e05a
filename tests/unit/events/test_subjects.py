"""Names and subjects: one way to write each, read back or refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.base import PARTITIONS
from events.subjects import (
    BadNameError,
    Family,
    LedgerSubject,
    Subjects,
    decode_name,
    encode_name,
    partition_of,
)

SUBJECTS = Subjects("dc1")


@given(st.text(min_size=1, max_size=20))
def test_a_name_is_read_back_as_it_was_written(name: str) -> None:
    try:
        token = encode_name(name)
    except BadNameError:
        assert len(name.encode(errors="surrogatepass")) * 3 > 128 or not name.isprintable()
        return

    assert re.fullmatch(r"[A-Za-z0-9_%-]+", token)
    assert decode_name(token) == name


@given(st.text(alphabet="web%abcdef0123456789.~ ", min_size=1, max_size=12))
def test_a_token_that_is_read_is_the_one_way_to_write_its_name(token: str) -> None:
    try:
        name = decode_name(token)
    except BadNameError:
        return

    assert encode_name(name) == token


@given(st.text(max_size=8), st.text(max_size=8))
def test_two_names_never_share_a_token(one: str, other: str) -> None:
    try:
        tokens = encode_name(one), encode_name(other)
    except BadNameError:
        return

    assert (tokens[0] == tokens[1]) == (one == other)


@pytest.mark.parametrize("token", ["%77eb", "%2e", "a.b", "web~", "%", "%zz", "%ff", "", "a" * 129])
def test_a_token_that_is_not_how_its_name_is_written_is_refused(token: str) -> None:
    with pytest.raises(BadNameError):
        decode_name(token)


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("web", "web"),
        ("billing.eu", "billing%2Eeu"),
        ("a b", "a%20b"),
        ("*", "%2A"),
        (">", "%3E"),
        ("~", "%7E"),
        ("ü", "%C3%BC"),
        ("100%", "100%25"),
    ],
)
def test_what_is_no_token_is_percent_encoded(name: str, token: str) -> None:
    assert encode_name(name) == token
    assert decode_name(token) == name


@pytest.mark.parametrize("name", ["", "\ud800", "x" * 129, "." * 43])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    with pytest.raises(BadNameError):
        encode_name(name)


@pytest.mark.parametrize("name", ["", "DC1", "dc.1", "dc 1", "*", "d" * 64, "dc1\n"])
def test_what_cannot_be_a_datacenter_is_refused(name: str) -> None:
    with pytest.raises(BadNameError):
        Subjects(name)


@pytest.mark.parametrize(
    ("tokens", "partition"),
    [
        (("service", "web"), 50),
        (("service", "api"), 60),
        (("service", "billing%2Eeu"), 37),
        (("server",), 18),
    ],
)
def test_partitions_are_what_nats_server_makes_them(
    tokens: tuple[str, ...], partition: int
) -> None:
    """The same names are sent through a real server in `tests/integration/test_partitions.py`."""
    assert partition_of(*tokens) == partition


def test_all_partitions_are_used_evenly() -> None:
    counts = [0] * PARTITIONS
    for number in range(6400):
        counts[partition_of("service", f"service-{number}")] += 1

    assert min(counts) > 50
    assert max(counts) < 150


def test_a_request_is_heard_under_the_name_that_it_was_sent_to() -> None:
    sent = SUBJECTS.sign("service", "billing.eu").removeprefix("ca.dc1.sign.")
    heard = SUBJECTS.parse_work(f"ca.dc1.work.13.{sent}")

    assert (heard.partition, heard.kind, heard.name) == (13, "service", "billing.eu")


@pytest.mark.parametrize(
    "subject",
    [
        "ca.dc1.work.13.service.%77eb",
        "ca.dc1.work.13.service.web.more",
        "ca.dc1.work.13.service",
        "ca.dc2.work.13.service.web",
        "ca.dc1.sign.service.web",
    ],
)
def test_a_subject_that_names_no_identity_is_refused(subject: str) -> None:
    with pytest.raises(BadNameError):
        SUBJECTS.parse_work(subject)


def test_a_subject_of_the_ledger_is_read_back() -> None:
    signer = "01K20000000000000000000EVN"
    parsed = [
        LedgerSubject.parse(subject, datacenter="dc1")
        for subject in (SUBJECTS.authority, SUBJECTS.grant(signer), SUBJECTS.leaves(signer))
    ]

    assert [(each.family, each.signer) for each in parsed] == [
        (Family.AUTHORITY, None),
        (Family.GRANT, signer),
        (Family.LEAVES, signer),
    ]


@pytest.mark.parametrize(
    "subject",
    [
        "ca.dc1.ledger.",
        "ca.dc1.ledger.other",
        "ca.dc1.ledger.authority.x",
        "ca.dc1.ledger.authority.",
        "ca.dc1.ledger.grant",
        "ca.dc1.ledger.leaves.",
        "ca.dc1.ledger.leaves.a.b",
        "ca.dc1.ledger.leaves.a b",
        "ca.dc2.ledger.authority",
        "authority",
        "",
    ],
)
def test_any_other_subject_is_none_of_the_ledgers(subject: str) -> None:
    with pytest.raises(BadNameError):
        LedgerSubject.parse(subject, datacenter="dc1")
