"""What a line of a replay tells."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from events.catalogue import CODEC
from services.cli.facts import facts, word

GOLDEN = Path(__file__).parents[3] / "golden" / "events"

TOLD = {
    "ca.configured": "trust_domain=11111111-2222-3333-4444-555555555555.consul key_type=ec256 "
    "leaf_ttl=259200s intermediate_ttl=31536000s root_ttl=315360000s "
    "csr_max=50/s leaf_signer=intermediate",
    "ca.configured.v1.with_request": "trust_domain=11111111-2222-3333-4444-555555555555.consul"
    " key_type=ec256 leaf_ttl=259200s "
    "intermediate_ttl=31536000s root_ttl=315360000s "
    "csr_max=50/s concurrent_max=4 leaf_signer=root "
    "given_key=ABAB",
    "crl.issued": "issuer=intermediate key=ABAB number=2 revoked=1 until=2026-11-04T12:00:00Z",
    "grant.given.v1.concurrent": "signer=00000EVN node=n1/0 partitions=2 key=ABAB rate=unlimited "
    "concurrent_max=2",
    "grant.given": "signer=00000EVN node=n1/0 partitions=32 key=BAE3 rate=25/s",
    "grant.withdrawn": "reason=stopped",
    "intermediate.installed": "root=4b:7a:86:26:cf:2c:8f:ea:4c:ce:48:a6:66:8f:71:01:62:e2:ed:5b"
    " key=BAE3 until=2027-08-01T12:00:00Z",
    "intermediate.requested": "root=0a:0a:0a:0a:0a:0a:0a:0a:0a:0a:0a:0a:0a:0a:0a:0a:0a:0a:0a:0a"
    " key=CDCD",
    "key.created.v1.given": "purpose=root key=ABAB key_type=rsa2048 origin=given",
    "key.created": "purpose=root key=DE5B key_type=ec256 origin=made",
    "key.destroyed": "purpose=signing key=ABAB",
    "key.shared": "key=ABAB",
    "leadership.acquired": "lease=42",
    "leadership.released": "reason=lease_lost",
    "leaf.issued": "serial=80:00:00:00:00:00:00:00:01:23:45:67:89:ab:ce:53 "
    "until=2026-08-04T11:59:00Z requester=UABC request=req-1 signer=00000EVN",
    "leaf.issued.v1.with_names": "serial=1f until=2026-11-04T12:00:00Z dns=localhost "
    "ip=127.0.0.1 ip=::1 requester=UABC request=r-1 "
    "signer=00000EVN",
    "leaf.refusals_counted": "since=2026-08-01T12:00:00Z until=2026-08-01T12:01:00Z "
    "malformed:UABC=70 too_large=3",
    "leaf.refused.v1.durable": "code=bad_signature durable=yes request=r-2 signer=00000EVN "
    'message="the request is not signed by its key"',
    "leaf.refused": "code=uri_count requester=UABC request=r-refused signer=00000EVN "
    'message="CSR SAN contains an invalid number of URIs: 2"',
    "leaf_signer.selected": "root=0a:0a:0a:0a:0a:0a:0a:0a:0a:0a:0a:0a:0a:0a:0a:0a:0a:0a:0a:0a "
    "key=ABAB",
    "leaves.revoked": 'leaves=1 reason=key_compromise selected_by="--serial 1f" requester=UABC',
    "root.activated": "",
    "root.pruned": "reason=forced live_leaves=3 requester=UABC",
    "root.published": 'name="Consul CA Primary Cert" key=DE5B cross_signed=yes '
    "until=2036-07-29T12:00:00Z",
    "root.retired": "rotated_out_at=2026-11-01T12:00:00Z",
    "rotation.aborted": 'reason="a mistake" requester=UABC',
    "rotation.started": "reason=configured activate_at=2026-11-04T12:00:00Z key_type=ec256 "
    "leaf_ttl=259200s intermediate_ttl=31536000s root_ttl=315360000s "
    "csr_max=50/s concurrent_max=4 leaf_signer=root given_key=ABAB "
    "requester=UABC",
    "signers.assigned.v1.concurrent": "reason=joined signer=00000EVN node=n1/0 partitions=2 "
    "granted=00000EVN",
    "signers.assigned": "reason=joined signer=00000EVN node=n1/0 partitions=32 signer=000000DD"
    " node=n1/1 partitions=32 granted=00000EVN withdrawn=000000DD",
}
KEYS = {
    "ABAB": "ab" * 32,
    "CDCD": "cd" * 32,
    "BAE3": "bae3b8ce5d40e21ec65c5a30a830364a3d2e37f1393778f5e6972f624cc650ac",
    "DE5B": "de5bb2f9d071416c63754a853020309ce03391f08c6cee24a255a816adc5cc23",
}


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_each_type_of_event_tells_what_an_auditor_looks_for(path: Path) -> None:
    [sample] = msgspec.json.decode(path.read_bytes())
    event = CODEC.decode(sample["type"], msgspec.json.encode(sample["data"]))
    told = TOLD[path.stem.removeprefix("caledger.").removesuffix(".v1")]
    for short, key in KEYS.items():
        told = told.replace(f"={short}", f"={key}")

    assert " ".join(facts(event)) == told


@pytest.mark.parametrize("text", ["a b", "a\nb", "\x1b[2J", "\x7f", "\x9b2J", 'a"b', "", "\u202e"])
def test_what_could_be_taken_for_something_else_is_quoted(text: str) -> None:
    told = word(text)

    assert told.isascii()
    assert told.isprintable()
    assert msgspec.json.decode(told) == text


def test_a_word_stays_as_it_is() -> None:
    assert word("spiffe://x.consul/ns/default/dc/dc1/svc/a%20b") == (
        "spiffe://x.consul/ns/default/dc/dc1/svc/a%20b"
    )


def test_no_limit_is_told_in_words() -> None:
    [sample] = msgspec.json.decode((GOLDEN / "caledger.grant.given.v1.json").read_bytes())
    sample["data"]["assignment"]["rate_per_second"] = 0
    event = CODEC.decode("caledger.grant.given.v1", msgspec.json.encode(sample["data"]))

    assert list(facts(event))[-1] == "rate=unlimited"
