from __future__ import annotations

from typing import Any

import pytest

from events.subjects import Subjects
from services.nats_access import accounts
from services.nats_access.accounts import PublicKeys
from services.nats_access.permissions import CLIENTS, WORKERS, Role, permissions

SUBJECTS = Subjects("dc1")
KEYS = PublicKeys(
    operator="O",
    operator_signing="OS",
    ca="CA",
    ca_signing="CAS",
    workers="WO",
    workers_signing="WOS",
    clients="CL",
    clients_signing="CLS",
    sys="SY",
    sys_signing="SYS",
)
CLAIMS: dict[str, dict[str, Any]] = {
    "CA": accounts.ca_claims(KEYS, SUBJECTS),
    "WO": accounts.workers_claims(KEYS, SUBJECTS),
    "CL": accounts.clients_claims(KEYS, SUBJECTS),
    "SY": accounts.sys_claims(KEYS, SUBJECTS),
}


@pytest.mark.parametrize("account", CLAIMS)
def test_what_one_account_imports_another_exports(account: str) -> None:
    for each in CLAIMS[account].get("imports", []):
        exports = CLAIMS[each["account"]]["exports"]
        assert (each["subject"], each["type"]) in {(out["subject"], out["type"]) for out in exports}


@pytest.mark.parametrize("account", CLAIMS)
def test_nothing_is_exported_twice_nor_to_nobody(account: str) -> None:
    exports = [each["subject"] for each in CLAIMS[account].get("exports", [])]
    imported = {
        each["subject"]
        for claims in CLAIMS.values()
        for each in claims.get("imports", [])
        if each["account"] == account
    }

    assert len(exports) == len(set(exports))
    assert set(exports) == imported


def local_names(account: str) -> set[str]:
    return {each.get("local_subject", each["subject"]) for each in CLAIMS[account]["imports"]}


def test_the_account_of_signers_reaches_nothing_that_decides() -> None:
    """An answer that is sent to such a subject would reach it through the import."""
    for subject in CLAIMS["WO"]["imports"]:
        name = subject["subject"]
        assert not name.startswith((SUBJECTS.authority, "ca.dc1.ledger.grant", SUBJECTS.roots_log))
        assert not name.startswith(f"$KV.{SUBJECTS.root_keys_bucket}")
        assert not name.startswith(f"$KV.{SUBJECTS.signing_keys_bucket}")
        assert not name.endswith(".leader")


def test_the_account_of_clients_reaches_no_subject_of_a_stream_or_of_jetstream() -> None:
    for name in local_names("CL"):
        assert not name.startswith(("$", "ca.dc1.ledger", SUBJECTS.roots_log))


@pytest.mark.parametrize(("account", "roles"), [("WO", WORKERS), ("CL", CLIENTS)])
def test_a_user_may_publish_only_what_its_account_imports_or_answers(
    account: str, roles: tuple[Role, ...]
) -> None:
    names = local_names(account) | {"_R_.>", "_INBOX.>"}
    for role in roles:
        for subject in permissions(role, SUBJECTS, user="u").publish:
            assert subject in names


def test_no_question_is_asked_where_someone_may_listen() -> None:
    heard = {
        subject
        for role in CLIENTS
        for subject in permissions(role, SUBJECTS, user="u", sign=["service.web"]).subscribe
        if not subject.startswith("_INBOX.")
    }
    for crossing in (
        *accounts.from_ca_to_clients(SUBJECTS),
        *accounts.from_workers_to_clients(SUBJECTS),
    ):
        if crossing.kind == "service":
            asked = crossing.local or crossing.subject
            assert not any(asked.startswith(subject.removesuffix(">")) for subject in heard)


def test_who_asks_is_told_to_workers_but_not_written_into_streams() -> None:
    shared = {
        (account, each["subject"])
        for account, claims in CLAIMS.items()
        for each in claims.get("imports", [])
        if each.get("share")
    }

    assert ("CL", SUBJECTS.sign_all) in shared
    assert ("CL", SUBJECTS.roots_get) in shared
    assert {account for account, _ in shared} == {"CL"}


def test_only_the_account_of_the_streams_has_jetstream() -> None:
    assert {name for name, claims in CLAIMS.items() if "streams" in claims["limits"]} == {"CA"}


@pytest.mark.parametrize("account", CLAIMS)
def test_a_token_without_its_seed_is_nobody(account: str) -> None:
    assert CLAIMS[account]["limits"]["disallow_bearer"] is True


def test_no_user_may_answer_on_whatever_subject_it_is_asked_to() -> None:
    assert "resp" not in accounts.user_claims("A", publish=["a"], subscribe=["b"])
