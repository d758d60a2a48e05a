"""Reading requests: what is asked for, or the one code that says why not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.subjects import Subjects, encode_name, partition_of
from services.refusals import MESSAGE_CHARS_MAX, RefusedError
from services.signer.request import BODY_BYTES_MAX, read_request, read_request_id
from services.streams import SUBMIT_MESSAGE_BYTES_MAX
from tests.factories import csr, csr_pem, pem_of

SUBJECTS = Subjects("dc1")


def heard(name: str = "web", kind: str = "service", partition: int | None = None) -> str:
    token = encode_name(name)
    number = partition_of(kind, token) if partition is None else partition
    return f"ca.dc1.work.{number}.{kind}.{token}"


def refused(body: bytes, subject: str | None = None) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        read_request(SUBJECTS, subject or heard(), body)
    return caught.value


def test_a_bare_pem_is_a_request_without_an_id() -> None:
    request = read_request(SUBJECTS, heard(), pem_of(csr()))

    assert (request.kind, request.name, request.request_id) == ("service", "web", None)
    assert request.partition == partition_of("service", "web")


def test_a_bare_der_is_read_as_it_is() -> None:
    der = csr()

    assert read_request(SUBJECTS, heard(), der).csr_der == der


def test_json_carries_a_pem_and_a_request_id() -> None:
    der = csr()
    body = json.dumps({"csr": pem_of(der).decode(), "request_id": "R_1-a"}).encode()

    request = read_request(SUBJECTS, heard(), body)

    assert (request.csr_der, request.request_id) == (der, "R_1-a")


def test_json_may_begin_with_white_space() -> None:
    body = b'\n  {"request_id": "r1"}'

    assert read_request(SUBJECTS, heard(), body).request_id == "r1"


def test_a_request_id_without_a_csr_is_a_look_up() -> None:
    request = read_request(SUBJECTS, heard(), b'{"request_id": "r1"}')

    assert (request.csr_der, request.request_id) == (None, "r1")


def test_null_is_as_if_it_was_not_there() -> None:
    body = json.dumps({"csr": csr_pem().decode(), "request_id": None}).encode()

    assert read_request(SUBJECTS, heard(), body).request_id is None


@pytest.mark.parametrize("name", ["web", "web.eu", "a b", "*", ">", "süd", "%", "a/b"])
def test_any_name_can_be_asked_for_in_its_one_spelling(name: str) -> None:
    assert read_request(SUBJECTS, heard(name), csr()).name == name


@pytest.mark.parametrize(
    "subject",
    [
        "ca.dc1.work.7.service.%77eb",  # web, spelled another way
        "ca.dc1.work.7.service.a%2fb",  # lower case
        "ca.dc1.work.7.service.%ff",  # no UTF-8
        "ca.dc1.work.7.service.a.b",
        "ca.dc1.work.7.service",
        "ca.dc1.sign.a.b.c",
        "ca.dc2.work.7.service.web",
        "ca.dc1.work.7.agent.node1",
        "ca.dc1.work.7.gateway",
    ],
)
def test_a_subject_that_names_no_identity_is_bad_name(subject: str) -> None:
    assert refused(csr(), subject).code == "bad_name"


def test_a_partition_that_the_server_would_not_choose_is_bad_name() -> None:
    other = (partition_of("service", "web") + 1) % 64

    assert refused(csr(), heard(partition=other)).code == "bad_name"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"{",
        b"{}",
        b"[]",
        b'"text"',
        b"{" * 20_000,
        b'{"csr":' + b"[" * 60_000,
        b'{"csr": null, "request_id": null}',
        b'{"csr": 1}',
        b'{"csr": ""}',
        b'{"csr": "\\udc00"}',
        b'{"csr": "\xff"}',
        b'{"request_id": "r1", "ttl": "1h"}',
        b"-----BEGIN CERTIFICATE-----\n",
    ],
    ids=range(15),
)
def test_what_cannot_be_read_is_malformed(body: bytes) -> None:
    assert refused(body).code == "malformed"


def test_a_field_that_we_do_not_know_is_named() -> None:
    assert "ttl" in refused(b'{"request_id": "r1", "ttl": "1h"}').message


@pytest.mark.parametrize(
    "request_id", ["", "a b", "a.b", "*", "r\n", "é", "a" * 65, 7, True, ["r1"], {"a": 1}]
)
def test_an_id_that_is_none_is_bad_request_id(request_id: object) -> None:
    body = json.dumps({"csr": csr_pem().decode(), "request_id": request_id}).encode()

    assert refused(body).code == "bad_request_id"


def test_too_large_is_said_before_anything_is_read() -> None:
    told = refused(b"{" * (BODY_BYTES_MAX + 1), "ca.dc1.work.7.nonsense")

    assert told.code == "too_large"
    assert told.message == "a request has at most 65536 bytes; this one has more"  # cut before us


def outcome(body: bytes) -> str | None:
    """Return the code of a refusal; None where it is read."""
    try:
        read_request(SUBJECTS, heard(), body)
    except RefusedError as error:
        return error.code if len(error.message) <= MESSAGE_CHARS_MAX else "too long a message"
    return None


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_whatever_is_sent_is_read_or_refused(body: bytes) -> None:
    assert outcome(body) in (None, "malformed", "bad_request_id")


@given(
    st.dictionaries(
        st.sampled_from(["csr", "request_id", "other"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=3),
        ),
    )
)
def test_whatever_json_is_sent_is_read_or_refused(told: dict[str, object]) -> None:
    assert outcome(json.dumps(told).encode()) in (None, "malformed", "bad_request_id")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"csr": "x", "request_id": "r1"}', "r1"),
        (b'{"csr": "x", "request_id": "r 1"}', None),
        (b'{"csr": "x", "request_id": 1}', None),
        (b"{", None),
        (b'{"csr": "' + b"x" * BODY_BYTES_MAX + b'", "request_id": "r1"}', "r1"),
        (b'{"csr": "' + b"x" * SUBMIT_MESSAGE_BYTES_MAX + b'", "request_id": "r1"}', None),
    ],
    ids=range(6),
)
def test_the_id_of_a_refused_request_is_told_where_it_is_one(
    body: bytes, expected: str | None
) -> None:
    assert read_request_id(body) == expected
