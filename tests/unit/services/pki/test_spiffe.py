from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.pki import spiffe
from services.pki.spiffe import (
    AgentId,
    MeshGatewayId,
    ServerId,
    ServiceId,
    SigningId,
    SpiffeIdError,
)
from tests.factories import CLUSTER_ID, TRUST_DOMAIN

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda name: name not in {".", ".."}
)


def test_a_trust_domain_is_the_cluster_id_below_consul_in_lower_case() -> None:
    assert spiffe.trust_domain_of("11111111-AAAA-3333-4444-555555555555") == (
        "11111111-aaaa-3333-4444-555555555555.consul"
    )


@pytest.mark.parametrize("name", ["mesh.example", "a.b", "x_y.z-1.example", TRUST_DOMAIN])
def test_a_host_name_may_be_a_trust_domain(name: str) -> None:
    assert spiffe.check_trust_domain(name.upper()) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "single", ".consul", "a..b", "a.b.", "-a.b", "a-.b", "a b.c", "a.b/c", "a.b:1"),
        *("u@a.b", "a.b\n", "é.consul", "10.0.0.1", "a.b?c", "%61.b", f"{'a' * 64}.b", "a." * 128),
    ],
)
def test_what_is_no_host_name_of_two_labels_is_no_trust_domain(name: str) -> None:
    with pytest.raises(SpiffeIdError, match="is not a trust domain"):
        spiffe.check_trust_domain(name)


@pytest.mark.parametrize(
    ("service", "segment"),
    [
        ("web", "web"),
        ("web.v1", "web.v1"),
        ("a b", "a%20b"),
        ("a/b", "a%2Fb"),
        ("a;b,c?d#e", "a%3Bb%2Cc%3Fd%23e"),
        ("$&+=:@-_.~", "$&+=:@-_.~"),
        ("!'()*[]", "%21%27%28%29%2A%5B%5D"),
        ("100%", "100%25"),
        ("naïve", "na%C3%AFve"),
        ("日本", "%E6%97%A5%E6%9C%AC"),
        ("...", "..."),
    ],
)
def test_a_services_name_is_escaped_as_gos_path_escape_does(service: str, segment: str) -> None:
    assert spiffe.service_id(TRUST_DOMAIN, "dc1", service) == (
        f"spiffe://{TRUST_DOMAIN}/ns/default/dc/dc1/svc/{segment}"
    )


@pytest.mark.parametrize("service", ["", ".", "..", "\ud800", "x" * 2048])
def test_a_name_that_is_no_path_segment_has_no_spiffe_id(service: str) -> None:
    with pytest.raises(SpiffeIdError):
        spiffe.service_id(TRUST_DOMAIN, "dc1", service)


@given(service=NAMES, datacenter=NAMES)
def test_every_service_id_reads_back_as_what_it_was_made_of(service: str, datacenter: str) -> None:
    uri = spiffe.service_id(TRUST_DOMAIN, datacenter, service)

    assert uri.isascii()
    assert spiffe.parse(uri) == ServiceId(
        trust_domain=TRUST_DOMAIN, datacenter=datacenter, service=service
    )


@given(first=NAMES, second=NAMES)
def test_two_services_never_share_a_spiffe_id(first: str, second: str) -> None:
    same = spiffe.service_id(TRUST_DOMAIN, "dc1", first) == spiffe.service_id(
        TRUST_DOMAIN, "dc1", second
    )

    assert same == (first == second)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (
            "spiffe://1234.consul/ns/default/dc/dc01/svc/web",
            ServiceId(trust_domain="1234.consul", datacenter="dc01", service="web"),
        ),
        (
            "spiffe://1234.consul/ap/bizdev/ns/other/dc/dc01/svc/web",
            ServiceId(
                trust_domain="1234.consul",
                partition="bizdev",
                namespace="other",
                datacenter="dc01",
                service="web",
            ),
        ),
        (
            "spiffe://1234.consul/ns/foo%2Fbar/dc/bar%2Fbaz/svc/baz%2Fqux",
            ServiceId(
                trust_domain="1234.consul",
                namespace="foo/bar",
                datacenter="bar/baz",
                service="baz/qux",
            ),
        ),
        (
            "spiffe://1234.consul/agent/client/dc/dc1/id/uuid",
            AgentId(trust_domain="1234.consul", datacenter="dc1", node="uuid"),
        ),
        (
            "spiffe://1234.consul/ap/bizdev/agent/client/dc/dc1/id/uuid",
            AgentId(trust_domain="1234.consul", partition="bizdev", datacenter="dc1", node="uuid"),
        ),
        (
            "spiffe://1234.consul/gateway/mesh/dc/dc1",
            MeshGatewayId(trust_domain="1234.consul", datacenter="dc1"),
        ),
        (
            "spiffe://1234.consul/agent/server/dc/dc1",
            ServerId(trust_domain="1234.consul", datacenter="dc1"),
        ),
        ("spiffe://1234.consul", SigningId(trust_domain="1234.consul")),
        (f"SPIFFE://{CLUSTER_ID}.Consul", SigningId(trust_domain=f"{CLUSTER_ID}.Consul")),
        (
            "spiffe://user@1234.consul:8443/ns/default/dc/dc1/svc/web?a=b#c",
            ServiceId(trust_domain="1234.consul:8443", datacenter="dc1", service="web"),
        ),
    ],
)
def test_the_forms_that_consul_knows_are_read(uri: str, expected: spiffe.SpiffeId) -> None:
    assert spiffe.parse(uri) == expected


@pytest.mark.parametrize("uri", ["", "web", "http://a.consul/ns/x", "//a.consul", ":", "spiffe"])
def test_another_scheme_is_refused_in_consuls_words(uri: str) -> None:
    with pytest.raises(SpiffeIdError, match=r"^SPIFFE ID must have 'spiffe' scheme$"):
        spiffe.parse(uri)


@pytest.mark.parametrize(
    "uri",
    [
        *("spiffe:", "spiffe://", "spiffe://nodot", "spiffe://.consul", "spiffe://a.consul/"),
        "spiffe://a.consul/ns/default/dc/dc1/svc/",
        "spiffe://a.consul/ns/default/dc/dc1/svc/web/",
        "spiffe://a.consul/ns/default/dc/dc1/svc/we/b",
        "spiffe://a.consul//ns/default/dc/dc1/svc/web",
        "spiffe://a.consul/ns/default/dc/dc1/svc/web%2",
        "spiffe://a.consul/ns/default/dc/dc1/svc/web%zz",
        "spiffe://a.consul/ns/default/dc/dc1/svc/web\n",
        "spiffe://a.consul/ns/default/dc/dc1/svc/\x00",
        "spiffe://a.consul/ap/ns/default/dc/dc1/svc/web",
        "spiffe://a.consul/agent/server/dc/dc1/id/x",
        "spiffe:ns/default/dc/dc1/svc/web",
    ],
)
def test_another_path_is_refused_in_consuls_words(uri: str) -> None:
    with pytest.raises(SpiffeIdError) as refused:
        spiffe.parse(uri)

    assert str(refused.value) == f"SPIFFE ID is not in the expected format: {uri}"


def test_an_escape_that_is_not_utf8_names_the_part_that_is_wrong() -> None:
    with pytest.raises(SpiffeIdError, match=r"^Invalid datacenter: "):
        spiffe.parse("spiffe://a.consul/ns/default/dc/%ff/svc/web")


@given(st.text(max_size=200) | st.text(max_size=100).map("spiffe://a.consul/ns/".__add__))
def test_reading_any_text_ends_in_an_id_or_a_spiffe_id_error(text: str) -> None:
    with contextlib.suppress(SpiffeIdError):
        spiffe.parse(text)
