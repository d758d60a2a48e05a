"""Which events a replay shows."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from msgspec import Raw

from events.envelope import Envelope, Recorded
from events.leadership import LeadershipReleased
from events.leaves import LeafIssued
from services.cli.common import CliError, Exit
from services.cli.selection import Selection, read_key_id, read_root_id
from tests.factories import NOW, WEB, service_uri

LEAF_ISSUED = Path(__file__).parents[3] / "golden" / "events" / "caledger.leaf.issued.v1.json"


def recorded(
    *, event_type: str = "caledger.leaf.issued.v1", subject: str = WEB, sequence: int = 7
) -> Recorded:
    envelope = Envelope(
        specversion="1.0",
        id="01ARZ3NDEKTSV4RRFFQ69G5FAV",
        source="/caledger/dc1/signer/n",
        type=event_type,
        subject=subject,
        time=NOW,
        datacontenttype="application/json",
        data=Raw(b"{}"),
    )
    return Recorded(
        sequence=sequence,
        position=0,
        stored=NOW,
        envelope=envelope,
        event=LeadershipReleased(node="n", term=1, reason="shutdown"),  # only the envelope counts
        raw=b"{}",
    )


def issued(serial: str) -> Recorded:
    [sample] = msgspec.json.decode(LEAF_ISSUED.read_bytes())
    event = msgspec.convert({**sample["data"], "serial": serial}, LeafIssued)
    return msgspec.structs.replace(recorded(), event=event)


def test_without_an_option_everything_is_shown() -> None:
    assert Selection.of().takes(recorded())


def test_a_type_is_named_short_or_whole() -> None:
    short = Selection.of(event_type="leaf.issued")
    whole = Selection.of(event_type="caledger.leaf.issued.v1")

    assert short.takes(recorded())
    assert whole.takes(recorded())
    assert not short.takes(recorded(event_type="caledger.leaf.refused.v1"))


def test_a_service_is_named_by_its_name_or_by_its_spiffe_id() -> None:
    by_name = Selection.of(identity="service.web")
    by_id = Selection.of(identity=WEB)
    other = service_uri("web-2")

    assert by_name.takes(recorded())
    assert by_id.takes(recorded())
    assert not by_name.takes(recorded(subject=other))
    assert not by_id.takes(recorded(subject=other))
    assert not by_name.takes(recorded(subject="node-1"))


def test_a_service_whose_name_has_dots_can_be_named() -> None:
    assert Selection.of(identity="service.a.b").takes(recorded(subject=service_uri("a.b")))


def test_a_spiffe_id_that_is_none_is_refused() -> None:
    with pytest.raises(CliError) as refused:
        Selection.of(identity="spiffe://x")

    assert refused.value.code is Exit.USAGE


def test_since_goes_by_the_servers_time_and_includes_it() -> None:
    assert Selection.of(since=NOW).takes(recorded())
    assert not Selection.of(since=NOW + timedelta(microseconds=1)).takes(recorded())


@pytest.mark.parametrize("identity", ["web", "service.", "agent.web", ""])
def test_what_is_no_identity_is_refused(identity: str) -> None:
    with pytest.raises(CliError, match="no identity"):
        Selection.of(identity=identity)


def test_a_type_that_is_unknown_is_refused_and_the_known_ones_are_told() -> None:
    with pytest.raises(CliError, match=r"leaf\.issued"):
        Selection.of(event_type="leaf.eaten")


@pytest.mark.parametrize(
    "written", ["0a:1b:c0", "a1bc0", "0A1BC0", "000A1BC0", "serial=0A1BC0\n", "0xa1bc0"]
)
def test_a_serial_is_found_however_it_is_written(written: str) -> None:
    asked = Selection.of(serial=written)

    assert asked.takes(issued("a1bc0"))
    assert not asked.takes(issued("a1bc"))
    assert not asked.takes(recorded())


@pytest.mark.parametrize("written", ["", ":", "0x", "xyz", "1" * 41, "-1", "a b"])
def test_what_is_no_serial_is_refused(written: str) -> None:
    with pytest.raises(CliError, match="no serial number") as refused:
        Selection.of(serial=written)

    assert refused.value.code is Exit.USAGE


def test_ids_are_typed_as_they_are_shown_in_capitals_or_without_colons() -> None:
    for text in ("AA:bb:0c", "aabb0c", " aa:bb:0c "):
        assert read_root_id(text) == "aa:bb:0c"
    key_id = "ab" * 32
    for text in (key_id, key_id.upper(), ":".join(["AB"] * 32)):
        assert read_key_id(text) == key_id
    with pytest.raises(CliError, match="no id of a root"):
        read_root_id("abc")
    with pytest.raises(CliError, match="no id of a key"):
        read_key_id("abcd")
