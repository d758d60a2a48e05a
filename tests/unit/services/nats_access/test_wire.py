"""Whatever a server passes on is read: no byte that a client wrote ends the reading of others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.errors import ProtocolError

from services.nats_access.wire import CONTROL_LINE_MAX, HEADERS_MAX, WireParser, read_headers

SERVERS = b'Nats-Request-Info: {"user":"UREAL"}\r\n\r\n'
TOLD = {"Nats-Request-Info": '{"user":"UREAL"}'}


def written(client: bytes) -> bytes:
    """Return what nats-server makes of a client's block that does not hold the header exactly."""
    return client[:-2] + SERVERS


# --- headers


@given(st.binary(max_size=300))
def test_any_block_is_read(block: bytes) -> None:
    read_headers(block)
    read_headers(b"NATS/1.0" + block)
    read_headers(b"NATS/1.0\r\n" + block + b"\r\n\r\n")


@pytest.mark.parametrize(
    ("block", "told"),
    [
        (b"", None),
        (b"NATS/1.0\r\n\r\n", None),
        (b"NATS/1.0 503\r\n\r\n", {"Status": "503"}),
        (
            b"NATS/1.0 404 Message Not Found\r\n\r\n",
            {"Status": "404", "Description": "Message Not Found"},
        ),
        (
            b"NATS/1.0 204 EOB\r\nNats-Last-Sequence: 7\r\n\r\n",
            {"Status": "204", "Description": "EOB", "Nats-Last-Sequence": "7"},
        ),
        (b"NATS/1.0 \xff\xff\xff\r\nA: b\r\n\r\n", {"A": "b"}),
        (b"NATS/1.0\r\nStatus: 204\r\nDescription: EOB\r\nA: b\r\n\r\n", {"A": "b"}),
        (b"NATS/1.0\r\nA:b\r\nC: \r\nD: e: f\r\n\r\n", {"A": "b", "C": "", "D": "e: f"}),
        (b"NATS/1.0\r\nA: \xff\r\n\r\n", {"A": "\ufffd"}),
        (b"NATS/1.0\r\nNats-Sequence: 1\r\nNats-Sequence: 2\r\n\r\n", {"Nats-Sequence": "2"}),
    ],
)
def test_a_block_is_read_as_it_is_written(block: bytes, told: dict[str, str] | None) -> None:
    assert read_headers(block) == told


@pytest.mark.parametrize("name", [b" A", b"\tA", b"A ", b"A B", b"\xc2\xa0A", b"\x0bA", b""])
def test_a_name_with_a_blank_does_not_count(name: bytes) -> None:
    assert read_headers(b"NATS/1.0\r\n" + name + b": b\r\n\r\n") is None


def test_who_asks_is_what_the_server_wrote_last() -> None:
    assert read_headers(written(b"NATS/1.0\r\nA: b\r\n\r\n")) == {"A": "b", **TOLD}
    assert read_headers(written(b"N12")) is None


@pytest.mark.parametrize(
    "forged",
    [
        b' Nats-Request-Info: {"user":"F"}',
        b'\tNats-Request-Info: {"user":"F"}',
        b'Nats-Request-Info : {"user":"F"}',
        b'Nats-Request-Info:{"user":"F"}',
        b'nats-request-info: {"user":"F"}',
        b'Nats-Request-Info: {"user":"F"}',
    ],
)
@pytest.mark.parametrize("end", [b"\r\nA: bxx", b"\r\n\r\n", b"xx", b"\r\nxx"])
def test_who_asks_cannot_be_forged(forged: bytes, end: bytes) -> None:
    told = (read_headers(written(b"NATS/1.0\r\n" + forged + end)) or {}).get("Nats-Request-Info")

    assert told == (
        TOLD["Nats-Request-Info"] if end.startswith(b"\r\n") and b"A" not in end else None
    )


def test_of_a_long_block_only_its_last_lines_are_read() -> None:
    """125,000 headers of one message would be 11 MB in memory (finding of a review)."""
    many = b"".join(b"%06d: x\r\n" % number for number in range(85_000))
    info = b'Nats-Request-Info: {"user":"UABC"}\r\n\r\n'

    told = read_headers(b"NATS/1.0 503 No\r\n" + many + b"Nats-Sequence: 7\r\n" + info)

    assert told is not None
    assert told["Nats-Request-Info"] == '{"user":"UABC"}'
    assert told["Nats-Sequence"] == "7"
    assert told["Status"] == "503"
    assert "084999" in told
    assert len(told) < HEADERS_MAX // 10


def test_a_line_that_is_too_long_is_none_at_all() -> None:
    assert read_headers(b"NATS/1.0\r\nA: " + b"x" * HEADERS_MAX + b"\r\nB: 1\r\n\r\n") == {"B": "1"}


def test_only_the_last_line_says_who_asks() -> None:
    assert read_headers(b'NATS/1.0\r\nNats-Request-Info: {"user":"F"}\r\nA: b\r\n\r\n') == {
        "A": "b"
    }
    assert read_headers(b'NATS/1.0\r\nNats-Request-Info: {"user":"F"}\r\n') is None


@given(
    st.binary(max_size=60), st.sampled_from([b"", b"Nats-Request-Info: ", b"\r\n", b'{"user":"F'])
)
def test_whatever_a_client_writes_it_is_the_servers_word_or_none(one: bytes, two: bytes) -> None:
    told = (read_headers(written(b"NATS/1.0\r\n" + one + two)) or {}).get("Nats-Request-Info")

    assert told in (None, TOLD["Nats-Request-Info"])


# --- the protocol


class Heard(Client):
    """A client that only listens."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []

    async def _process_msg(self, *message: Any) -> None:
        self.heard.append(message)

    async def _process_err(self, err_msg: str) -> None:
        self.heard.append(err_msg)

    async def _process_ping(self) -> None:
        self.heard.append("ping")

    async def _process_pong(self) -> None:
        self.heard.append("pong")

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        self.heard.append(info)


SENT = (
    b"PING\r\nMSG a.b 7 3\r\nabc\r\nMSG a 7 _R_.x 0\r\n\r\n+OK\r\n"
    b"HMSG a\x0b9\x85\r 8 r\xff 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"
    b"-ERR 'Permissions Violation for \xff'\r\nINFO {\"a\":1}\r\nPONG\r\n"
)
HEARD = [
    "ping",
    (7, b"a.b", b"", b"abc", b""),
    (7, b"a", b"_R_.x", b"", b""),
    (8, b"a\x0b9\x85\r", b"r\xff", b"hi", b"NATS/1.0\r\n\r\n"),
    "'permissions violation for \ufffd'",
    {"a": 1},
    "pong",
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000])
async def test_what_a_server_sends_is_heard_however_it_is_cut(size: int) -> None:
    client = Heard()
    parser = WireParser(client)

    for start in range(0, len(SENT), size):
        await parser.parse(SENT[start : start + size])

    assert client.heard == HEARD


@pytest.mark.parametrize(
    "line",
    [
        b"MSG a\r\n",
        b"MSG a 1 b c 5\r\n",
        b"MSG a 1 -5\r\n",
        b"MSG a x 5\r\n",
        b"HMSG a 1 6 5\r\n",
        b"HMSG a 1\r\n",
        b"MSG a 1 " + b"9" * 5_000 + b"\r\n",
        b"INFO {\r\n",
        b"INFO []\r\n",
        b"INFO " + b"[" * 100_000 + b"\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\r\n",
        b"x" * (CONTROL_LINE_MAX + 1),
    ],
    ids=lambda line: repr(line[:20]),
)
async def test_what_is_not_nats_is_a_protocol_error(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        await WireParser(Heard()).parse(line)


async def test_a_new_connection_begins_anew() -> None:
    client = Heard()
    parser = WireParser(client)
    await parser.parse(b"MSG a 1 100\r\nhalf")

    parser.reset()
    await parser.parse(b"PING\r\n")

    assert client.heard == ["ping"]


def test_the_real_header_is_json() -> None:
    assert json.loads((read_headers(written(b"NATS/1.0\r\n\r\n")) or {})["Nats-Request-Info"])
