from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.subjects import Subjects, decode_name
from services.nats_access import permissions as lists
from services.nats_access.permissions import BadGrantError, Role, permissions, sign_subjects

SUBJECTS = Subjects("dc1")
EVERY_ROLE = list(Role)


def of(role: Role) -> lists.Permissions:
    return permissions(role, SUBJECTS, user=role.value, sign=["service.web"])


def test_a_client_may_do_what_it_is_for_and_no_more() -> None:
    assert permissions(
        Role.CLIENT, SUBJECTS, user="shop", sign=["service.web", "service.*"]
    ) == lists.Permissions(
        publish=(
            "ca.dc1.roots.get",
            "ca.dc1.roots.read",
            "ca.dc1.crl.get",
            "ca.dc1.sign.service.web",
            "ca.dc1.submit.service.web",
            "ca.dc1.sign.service.*",
            "ca.dc1.submit.service.*",
        ),
        subscribe=("_INBOX.shop.>", "ca.dc1.roots.changed", "ca.dc1.reissue"),
    )


def test_an_auditor_may_read_and_no_more() -> None:
    assert permissions(Role.AUDITOR, SUBJECTS) == lists.Permissions(
        publish=(
            "ca.dc1.roots.get",
            "ca.dc1.roots.read",
            "ca.dc1.crl.get",
            "ca.dc1.audit.read",
            "ca.dc1.status.get",
        ),
        subscribe=(
            "_INBOX.auditor.>",
            "ca.dc1.roots.changed",
            "ca.dc1.reissue",
            "ca.dc1.live.>",
        ),
    )


def test_a_signer_writes_leaves_and_its_lease_and_answers_and_no_more() -> None:
    reads = ("ca.dc1.js.STREAM.INFO.", "ca.dc1.js.STREAM.MSG.GET.", "ca.dc1.js.DIRECT.GET.")
    writes = [subject for subject in of(Role.SIGNER).publish if not subject.startswith(reads)]

    assert writes == [
        "ca.varz",
        "ca.dc1.ledger.leaves.*",
        "$KV.CA_LEASES_dc1.signer.*",
        "ca.dc1.js.STREAM.MSG.DELETE.CA_SUBMIT_dc1",
        "_R_.>",
        "_INBOX.>",
    ]
    assert not any(
        "ROOT_KEYS" in subject and "GET" in subject for subject in of(Role.SIGNER).publish
    )


def test_only_who_leads_or_would_lead_writes_authority() -> None:
    writers = {role for role in EVERY_ROLE if SUBJECTS.authority in of(role).publish}

    assert writers == {Role.LEADER_ELECTOR, Role.ROOT_MANAGER}


def test_only_the_root_manager_writes_grants_keys_and_roots() -> None:
    for subject in (
        SUBJECTS.grant("*"),
        SUBJECTS.roots_log,
        SUBJECTS.key(SUBJECTS.root_keys_bucket, ">"),
        SUBJECTS.key(SUBJECTS.signing_keys_bucket, ">"),
    ):
        assert [role for role in EVERY_ROLE if subject in of(role).publish] == [Role.ROOT_MANAGER]


def test_only_init_makes_streams_and_nobody_consumes_or_deletes_but_durable_requests() -> None:
    removes = SUBJECTS.carried(f"$JS.API.STREAM.MSG.DELETE.{SUBJECTS.submit_stream}")
    api = {
        role: [subject for subject in of(role).publish if "API." in subject or ".js." in subject]
        for role in EVERY_ROLE
    }
    for role, subjects in api.items():
        for subject in subjects:
            if subject == removes:
                assert role is Role.SIGNER
                continue
            assert not any(verb in subject for verb in ("DELETE", "PURGE", "RESTORE", "CONSUMER"))
            assert "*" not in subject
            assert ">" not in subject
            if "CREATE" in subject or "UPDATE" in subject:
                assert role is Role.INIT


@pytest.mark.parametrize("role", EVERY_ROLE)
def test_a_user_hears_its_own_inbox_and_no_other(role: Role) -> None:
    inboxes = [subject for subject in of(role).subscribe if subject.startswith("_")]

    assert inboxes == [f"_INBOX.{role.value}.>"]


@pytest.mark.parametrize("role", EVERY_ROLE)
def test_the_lists_of_one_datacenter_name_nothing_of_another(role: Role) -> None:
    other = permissions(role, Subjects("dc2"), user=role.value, sign=["service.web"])
    shared = {"ca.varz", "_R_.>", "_INBOX.>", lists.CLAIMS_UPDATE}

    assert set(of(role).publish) & set(other.publish) <= shared
    assert all(
        subject.startswith("_INBOX.") for subject in set(of(role).subscribe) & set(other.subscribe)
    )


@given(st.text(min_size=1, max_size=30).filter(lambda name: name != "*"))
def test_a_name_is_granted_as_one_token_or_not_at_all(name: str) -> None:
    try:
        subject, durably = sign_subjects(SUBJECTS, f"service.{name}")
    except BadGrantError:
        return
    *prefix, token = subject.split(".")

    assert prefix == ["ca", "dc1", "sign", "service"]
    assert durably == f"ca.dc1.submit.service.{token}"
    assert decode_name(token) in (name, unquote(name))
    assert not set(token) & set("*> ")


@pytest.mark.parametrize(
    "identity",
    [
        "",
        "service",
        "service.",
        "web",
        "*",
        ">",
        "*.web",
        "agent",
        "gateway.a",
        "server.",
        "Service.web",
        "service.\ud800",
        "service.>",
        "service.web.>",
        "service.web*",
        "service.**",
    ],
)
def test_what_is_no_identity_is_not_granted(identity: str) -> None:
    with pytest.raises(BadGrantError):
        sign_subjects(SUBJECTS, identity)


def test_a_service_named_like_a_wildcard_is_granted_where_it_is_written_so() -> None:
    """Who writes `service.>` means the wildcard, which is written `service.*`."""
    with pytest.raises(BadGrantError, match=r"all of them are 'service\.\*'.*service\.%3E"):
        sign_subjects(SUBJECTS, "service.>")

    assert sign_subjects(SUBJECTS, "service.%3E")[0] == "ca.dc1.sign.service.%3E"
    assert sign_subjects(SUBJECTS, "service.a%2Eb") == sign_subjects(SUBJECTS, "service.a.b")
    assert sign_subjects(SUBJECTS, "service.100%")[0] == "ca.dc1.sign.service.100%25"


def test_a_user_may_be_given_no_more_than_fits_in_the_token_that_it_shows() -> None:
    with pytest.raises(BadGrantError, match="make several users"):
        permissions(Role.CLIENT, SUBJECTS, user="shop", sign=[f"service.{n}" for n in range(1_000)])
