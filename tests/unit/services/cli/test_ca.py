"""`caledger ca` before anybody is asked: what is typed, what is read, and how answers are told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from projections.bundle import Roots
from services.administration_client import overridden
from services.cli.administering import option_for, read_configuration, says
from services.cli.app import app
from services.cli.ca import _warn_of_force
from services.cli.ca_crl import lists_elsewhere
from services.cli.ca_plan import lines, outcome
from services.cli.ca_revocation import between, moment, reason_of, spiffe_id, tell
from services.cli.ca_serials import not_live
from services.cli.common import CliError, Exit
from services.outcomes import Change, Effect, Outcome, Planned, Verifier
from services.pki.spiffe import SpiffeIdError
from services.root_manager.rotation import NO_CROSS_SIGNING
from tests import factories

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
KEY = "-----BEGIN EC PRIVATE KEY-----\nabc\n-----END EC PRIVATE KEY-----\n"
PLANNED = Planned(
    effect="rotate",
    state="INITIALIZED",
    modify_index=7,
    ledger_sequence=9,
    private_key_type="ec",
    private_key_bits=256,
    leaf_signer="intermediate",
    live_leaves=0,
    leaves_as_of=9,
)
TOLD = Outcome(outcome="", state="INITIALIZED", modify_index=7, ledger_sequence=9, root_id="aa:bb")


def caledger(*arguments: str, stdin: str | None = None) -> tuple[int, str]:
    """Return how a command that fails before anybody is asked ends, and what it says."""
    ran = CliRunner().invoke(app, ["ca", *arguments], input=stdin)
    if isinstance(ran.exception, CliError):
        return ran.exception.code, str(ran.exception)
    return ran.exit_code, ran.output


def file(folder: Path, content: object, mode: int = 0o600) -> Path:
    path = folder / "ca.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return path


# The file.


def test_set_config_and_plan_want_a_file_in_consuls_words() -> None:
    for command in ("set-config", "plan"):
        assert caledger(command) == (Exit.USAGE, "The -config-file flag is required")


@pytest.mark.parametrize("option", ["-config-file", "--config-file", "--config"])
def test_the_file_is_named_as_in_consul_or_as_everywhere_here(option: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing.json"

    code, text = caledger("set-config", option, str(missing))

    assert code == Exit.USAGE
    assert text == f"Error reading config file: {missing}: No such file or directory"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"A": 1, "A": 2}', "null", '"text"', "[" * 100_000, "\udc80"]
)
def test_a_file_that_is_no_json_object_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "ca.json"
    path.write_bytes(content.encode(errors="surrogateescape"))

    code, text = caledger("plan", f"-config-file={path}")

    assert code == Exit.USAGE
    assert text.startswith(f"Error parsing config file: {path}: ")


def test_stdin_is_a_minus() -> None:
    code, text = caledger("plan", "-config-file", "-", stdin="{")

    assert code == Exit.USAGE
    assert text.startswith("Error parsing config file: -: ")


@pytest.mark.parametrize(
    ("content", "mode", "warned"),
    [
        ({"Config": {"PrivateKey": KEY}}, 0o644, True),
        ({"config": {"private_key": KEY}}, 0o640, True),
        ({"Config": {"PrivateKey": KEY}}, 0o600, False),
        ({"Config": {"PrivateKey": "key:ab"}}, 0o644, False),
        ({"Config": {"PrivateKey": ""}}, 0o644, False),
        ({"Config": {}}, 0o644, False),
        ({"Config": 7}, 0o644, False),
        ({}, 0o644, False),
    ],
)
def test_a_private_key_that_others_can_read_is_warned_of(
    content: dict[str, Any],
    mode: int,
    warned: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert read_configuration(file(tmp_path, content, mode)) == content

    said = capsys.readouterr().err
    assert (f"its mode {mode:04o} lets others read it" in said) == warned
    assert "abc" not in said


def test_what_is_said_beside_a_file_takes_the_place_of_what_it_says_in_either_form() -> None:
    body = {"Config": {}, "force_without_cross_signing": True, "modify_index": 3}

    said = overridden(body, ForceWithoutCrossSigning=False, ModifyIndex=None, WaitSeconds=None)

    assert said == {"Config": {}, "modify_index": 3, "ForceWithoutCrossSigning": False}
    assert says(body, "ForceWithoutCrossSigning") is True
    assert says(body, "WaitSeconds") is None


# Options.


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("rotate", "--abort", "--wait", "3"), "--abort goes with --reason only"),
        (("rotate", "--abort", "--force-without-cross-signing"), "--abort goes with --reason only"),
        (("rotate", "--reason", "a mistake"), "--reason goes with --abort"),
        (("revoke",), "say which: --serial, --identity, --signer, --root, or --issued-between"),
        (
            ("revoke", "--root", "aa:bb", "--identity", "service.web"),
            "say one of --serial, --identity, --signer, --root",
        ),
        (("revoke", "--root", "root-1"), "'root-1' is no id of a root: hex digits"),
        (("prune", "xyz"), "'xyz' is no id of a root: hex digits"),
        (("crl", "--issuer", "ab:cd"), "'ab:cd' is no id of a key: 64 hex digits"),
        (("rotate", "--request-id", "a b"), "--request-id 'a b': a request id has 1 to 64 of "),
        (("revoke", "--serial", "xyz"), "'xyz' is no serial number"),
        (("revoke", "--serial", "1", "--reason", "bored"), "'bored' is no reason: unspecified, "),
        (("revoke", "--signer", "node1"), "'node1' is no run of a signer"),
        (("revoke", "--issued-between", "1h", "2h"), "the first must be earlier"),
        (("revoke", "--issued-between", "yesterday", "now"), "'yesterday' is no moment"),
    ],
)
def test_what_cannot_be_meant_is_told_before_anybody_is_asked(
    arguments: tuple[str, ...], text: str
) -> None:
    code, said = caledger(*arguments)

    assert code == Exit.USAGE
    assert text in said


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("now", timedelta(0)),
        ("2h", timedelta(hours=2)),
        ("1h30m", timedelta(minutes=90)),
        ("7d", timedelta(days=7)),
        ("0.5h", timedelta(minutes=30)),
        ("2026-08-01T11:59:00Z", timedelta(minutes=1)),
        ("2026-08-01T13:00:00+02:00", timedelta(hours=1)),
    ],
)
def test_a_moment_is_one_of_rfc_3339_or_how_long_ago_it_was(text: str, ago: timedelta) -> None:
    assert moment(text, now=NOW) == NOW - ago


@pytest.mark.parametrize(
    "text", ["", "2", "-2h", "2026-08-01", "2026-08-01T12:00:00", "999999999d", "2w", "h"]
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(CliError, match="is no moment"):
        moment(text, now=NOW)


def test_the_time_between_two_moments_has_a_length() -> None:
    assert between("2h", "now", now=NOW) == (NOW - timedelta(hours=2), NOW)
    with pytest.raises(CliError, match="the first must be earlier"):
        between("now", "now", now=NOW)


def test_a_reason_is_written_as_in_rfc_5280_or_as_openssl_or_the_ledger_do() -> None:
    for text in ("keyCompromise", "KeyCompromise", "key_compromise"):
        assert reason_of(text) == "key_compromise"
    assert reason_of("CACompromise") == "ca_compromise"


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("service.web", "/ns/default/dc/dc1/svc/web"),
        ("service.a.b", "/ns/default/dc/dc1/svc/a.b"),
        ("agent.node-1", "/agent/client/dc/dc1/id/node-1"),
        ("gateway", "/gateway/mesh/dc/dc1"),
        ("server", "/agent/server/dc/dc1"),
    ],
)
def test_an_identity_is_typed_as_everywhere(text: str, whole: str) -> None:
    named = spiffe_id(text, trust_domain="t.consul", datacenter="dc1")

    assert named == f"spiffe://t.consul{whole}"
    assert spiffe_id(named, trust_domain="other.consul", datacenter="dc1") == named


@pytest.mark.parametrize(
    "text", ["web", "service", "service.", "gateway.", "gateway.a", "nobody.x", "spiffe://x/y"]
)
def test_what_is_no_identity_is_refused(text: str) -> None:
    with pytest.raises((CliError, SpiffeIdError)):
        spiffe_id(text, trust_domain="t.consul", datacenter="dc1")


@pytest.mark.parametrize("text", ["service.*", "service.web*", "agent.>"])
def test_a_pattern_is_no_identity_and_what_to_say_instead_is_told(text: str) -> None:
    with pytest.raises(CliError, match="--issued-between, --signer or --root"):
        spiffe_id(text, trust_domain="t.consul", datacenter="dc1")


@pytest.mark.parametrize("unknown", [set(), {"a"}, {"h"}, {"b", "c", "f"}, set("abcdefgh")])
async def test_of_many_serials_those_that_are_of_no_live_leaf_are_found(unknown: set[str]) -> None:
    serials = list("abcdefgh")
    asked = []

    async def count(some: Sequence[str]) -> int:
        asked.append(some)
        return len(set(some) - unknown)

    found = await not_live(serials, await count(serials), count)

    assert set(found) == unknown
    assert len(asked) <= len(serials)


# Answers.


@pytest.mark.parametrize(
    ("effect", "said", "forced", "warned"),
    [
        ("rotate", True, False, True),
        ("rotate", True, True, False),
        ("rotate", False, False, False),
        ("configure", True, False, False),
        ("nothing", True, False, False),
    ],
)
def test_a_files_force_is_warned_of_where_it_would_matter(
    effect: Effect, said: bool, forced: bool, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {
        "configuration": {"ForceWithoutCrossSigning": said},
        "force_without_cross_signing": forced,
    }

    _warn_of_force(asked, replace(PLANNED, effect=effect))

    assert ("does not count" in capsys.readouterr().err) == warned


def test_a_refusal_names_the_option_that_it_speaks_of() -> None:
    refused = replace(PLANNED, problem_code="bad_config", problem=NO_CROSS_SIGNING)

    assert list(lines(refused))[-1].strip() == "here that is --force-without-cross-signing"
    assert option_for("CA is already in state") is None


def test_a_plan_is_told_in_lines() -> None:
    planned = Planned(
        effect="rotate",
        state="INITIALIZED",
        modify_index=7,
        ledger_sequence=9,
        changes=(
            Change(key="PrivateKeyBits", before=256, after=384),
            Change(key="RootCert", before=None, after="-----BEGIN CERTIFICATE-----\n" * 2),
        ),
        private_key_type="ec",
        private_key_bits=384,
        leaf_signer="intermediate",
        live_leaves=412,
        leaves_as_of=9,
        verifiers=(Verifier(holds="the bundle of before", live_leaves=True, new_leaves=False),),
        activate_at=NOW,
        prune_after=NOW,
        effects=("412 live leaves keep verifying",),
        warnings=("the new root is not signed by the old one",),
    )

    assert list(lines(planned)) == [
        "plan: rotation to another root",
        "  change   PrivateKeyBits: 256 -> 384",
        "  change   RootCert: none -> 2 certificates",
        "  then     412 live leaves keep verifying",
        (
            "  pruned   the old root, not before 2026-08-01 12:00:00Z, and not before its last "
            "leaf has expired"
        ),
        "  holding the bundle of before: live leaves accepted, new leaves REFUSED",
        "  WARNING  the new root is not signed by the old one",
    ]
    refused = replace(planned, problem_code="busy", problem="not now")
    assert list(lines(refused)) == [
        "plan: rotation to another root, REFUSED",
        "  change   PrivateKeyBits: 256 -> 384",
        "  change   RootCert: none -> 2 certificates",
        "  REFUSED  busy: not now",
    ]


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ("configured", "Configuration updated! ModifyIndex 7"),
        ("nothing to change", "nothing to change"),
        ("aborted", "the rotation was given up; root aa:bb stays active"),
        ("pruned", "root aa:bb is trusted no more; 3 live leaves were cut off"),
        (
            "would be pruned",
            "root aa:bb can be pruned with --force only: 3 live leaves would be cut off",
        ),
        ("would be revoked", "3 live leaves would be revoked\n       2  spiffe://a\n       1  b"),
        ("something new", "something new"),
    ],
)
def test_an_outcome_is_told_in_words(told: str, text: str) -> None:
    answer = replace(
        TOLD,
        outcome=told,
        live_leaves=3,
        identities={"spiffe://a": 2, "b": 1} if "revoked" in told else None,
    )

    assert "\n".join(outcome(answer)) == text


def test_pruning_says_what_goes_with_a_root_what_takes_force_and_one_leaf_of_one() -> None:
    told = replace(
        TOLD,
        outcome="would be pruned",
        live_leaves=1,
        also=("cc:dd",),
    )

    assert list(outcome(told, force=True)) == [
        "root aa:bb can be pruned: 1 live leaf would be cut off",
        "root cc:dd would go with it, as it signed it",
    ]
    assert list(outcome(replace(told, outcome="pruned"), force=True)) == [
        "root aa:bb is trusted no more; 1 live leaf was cut off",
        "nor is root cc:dd, which signed it",
    ]
    assert list(outcome(replace(told, live_leaves=0, also=None))) == [
        "root aa:bb can be pruned: no live leaf would be cut off"
    ]


def test_a_moment_of_an_answer_is_told_to_the_second_in_utc() -> None:
    told = replace(
        TOLD,
        outcome="rotating",
        state="RECONFIGURING",
        activate_at="2026-08-01T14:00:00.123456+02:00",
    )

    assert next(outcome(told)).endswith("signs from 2026-08-01 12:00:00Z on")


def test_below_an_external_root_it_is_told_that_other_cas_have_lists_as_well() -> None:
    ours, below = (
        factories.bundle_root(root_id, "-----BEGIN CERTIFICATE-----\n" * certificates)
        for root_id, certificates in (("aa:bb", 1), ("cc:dd", 2))
    )
    bundle = Roots(
        active_root_id="cc:dd", trust_domain="t.consul", roots=(ours, below), ledger_sequence=3
    )

    assert [note.split()[1] for note in lists_elsewhere(bundle)] == ["cc:dd"]


def test_of_many_identities_those_with_most_leaves_are_shown() -> None:
    answer = replace(
        TOLD,
        outcome="revoked",
        live_leaves=12,
        identities={f"spiffe://{number}": 1 for number in range(12)},
    )

    told = list(outcome(answer))
    assert len(told) == 12
    assert told[-1].strip() == "and 2 more identities, at least"


@pytest.mark.parametrize("json", [False, True])
def test_a_revocation_that_is_on_no_list_yet_fails(
    capsys: pytest.CaptureFixture[str], *, json: bool
) -> None:
    answer = replace(
        TOLD,
        outcome="revoked",
        live_leaves=2,
    )
    tell(msgspec.json.encode(answer), json=json)
    missing = msgspec.json.encode(replace(answer, lists_missing=("aa", "bb")))

    with pytest.raises(CliError, match="no list could be issued by aa, bb") as failed:
        tell(missing, json=json)

    assert failed.value.code == Exit.FAULT
    first, second = capsys.readouterr().out.splitlines()
    if json:
        assert second == missing.decode()
    else:
        assert first == second == "2 live leaves were revoked"
