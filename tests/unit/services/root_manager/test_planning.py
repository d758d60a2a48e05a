"""What `config.plan` says is what `config.set` then does; and it does nothing itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.keys.interface import PrivateKey
from services.refusals import RefusedError
from tests.external_ca import given_ca
from tests.factories import NOW
from tests.virtual import SUBJECTS, Datacenter, run, trust_anchors

HOUR = timedelta(hours=1)


@pytest.fixture
async def dc(tmp_path: Path) -> AsyncIterator[Datacenter]:
    """A datacenter with an authority and a signer."""
    async with Datacenter.open(tmp_path) as datacenter:
        await datacenter.signers(run(1))
        yield datacenter


def given(
    *, path_length: int | None = None, days: int = 3650, key: PrivateKey | None = None
) -> dict[str, str]:
    """Return a root of an operator's own, as a configuration gives it."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ours")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return {
        "PrivateKey": key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ).decode(),
        "RootCert": certificate.public_bytes(serialization.Encoding.PEM).decode(),
    }


async def planned(dc: Datacenter, by: str = SUBJECTS.config_plan, /, **body: Any) -> dict[str, Any]:
    """Return a plan, after a look that it did nothing."""
    before = await dc.ledger.last_sequence()
    keys = [len(await store.stored()) for store in (dc.root_keys, dc.signing_keys)]
    state = await dc.tools.follower.catch_up()

    plan = await dc.command(by, **body)

    assert await dc.ledger.last_sequence() == before
    assert [len(await store.stored()) for store in (dc.root_keys, dc.signing_keys)] == keys
    assert dc.state == state
    return plan


async def done(dc: Datacenter, **body: Any) -> str:
    """Set a configuration; return what it came to in the words of a plan."""
    before = dc.state
    try:
        told = await dc.command(SUBJECTS.config_set, **body)
    except RefusedError as error:
        assert dc.state.configured == before.configured
        assert dc.state.roots.keys() == before.roots.keys()
        return f"{error.code}: {error.message}"
    if told["Outcome"] == "nothing to change":
        assert dc.state.configured == before.configured
        return "nothing"
    assert told["Outcome"] in ("configured", "rotated", "rotating")
    if dc.state.roots.keys() == before.roots.keys():
        assert dc.state.configured > before.configured
        return "configure"
    assert dc.state.rotation is not None or dc.state.active_root != before.active_root
    return "initialise" if before.configuration is None else "rotate"


SHORT = given(days=2)  # expires before leaves of 72 h do
OURS = given(path_length=0)
WEAK = {"Config": {**OURS, "LeafSigner": "root"}}
STRONG = given()
WALK: tuple[dict[str, Any], ...] = (
    {},  # the default has a rate limit
    {},
    {"Config": {"LeafCertTTL": "24h"}},
    {"Config": {"leaf_cert_ttl": "24h"}},
    {"Config": {"LeafCertTTL": "24h", "CSRMaxPerSecond": 10}},
    {"Config": {"LeafSigner": "root"}},
    {"Config": {"LeafSigner": "root", "PrivateKeyBits": 384}},
    {"Config": {"LeafSigner": "intermediate", "PrivateKeyBits": 384}},
    {"Config": {"PrivateKeyType": "rsa"}, "ForceWithoutCrossSigning": True},
    {"Config": {}, "ModifyIndex": 1},
    {"Config": SHORT},
    {"Config": OURS},  # an intermediate below a path length of 0
    WEAK,
    WEAK,
    {"Config": {**OURS, "LeafSigner": "root", "LeafCertTTL": "1h"}},
    {"Config": {**OURS, "LeafSigner": "intermediate"}},  # only the relation changes
    {"Config": {}},  # the root's path length is 0: it signs no other root
    {"Config": STRONG, "ForceWithoutCrossSigning": True},
    {"Config": {**STRONG, "LeafCertTTL": "2000h"}},
    {"Config": {}},
    {"Config": STRONG},  # it was a root here
    {"Config": {"PrivateKey": STRONG["PrivateKey"]}},  # its key is one's that is trusted
    {"Config": {"PrivateKeyBits": 384}, "WaitSeconds": 60, "RequestID": "r-1"},
    {"Config": {"PrivateKeyBits": 384}, "WaitSeconds": 60, "RequestID": "r-2"},
    {"Config": {"LeafCertTTL": "1h"}},
)
EFFECTS = (
    *("configure", "nothing", "configure", "nothing", "configure", "configure", "rotate"),
    "configure",
    *("rotate", "conflict", "bad_config", "bad_config", "rotate", "nothing", "configure"),
    *("bad_config", "bad_config", "rotate", "configure", "rotate", "conflict", "conflict"),
    *("rotate", "busy", "busy"),
)


async def test_a_plan_says_what_is_then_done(dc: Datacenter) -> None:
    effects = []
    for body in WALK:
        try:
            plan = await planned(dc, **body)
        except RefusedError as error:  # a configuration that cannot be read leads to nothing
            expected = f"{error.code}: {error.message}"
        else:
            problem = plan.get("Problem")
            expected = plan["Effect"] if problem is None else f"{plan['ProblemCode']}: {problem}"
            key = (plan["PrivateKeyType"], plan["PrivateKeyBits"])

        effect = await done(dc, **body)

        assert effect == expected
        effects.append(effect.partition(":")[0])
        await dc.act()
        root = [*dc.state.roots.values()][-1].published
        if effect == "rotate":
            assert (root.key_type, root.key_bits) == key
            assert (root.cross_signed is not None) == plan.get("CrossSigned", False)
            assert dc.state.issuer is not None
    assert tuple(effects) == EFFECTS


async def test_before_there_is_an_authority_a_plan_says_that_it_is_made(tmp_path: Path) -> None:
    async with Datacenter.open(tmp_path) as dc:
        body = {"Config": {"PrivateKeyType": "rsa"}}

        plan = await planned(dc, **body)

        assert plan["Effect"] == await done(dc, **body) == "initialise"
        assert plan["LiveLeaves"] == 0
        assert plan["Effects"][0] == "the first authority is made: of a new key (rsa 2048)"


@pytest.mark.parametrize("force", [False, True])
async def test_a_plan_says_which_verifiers_accept_what_and_they_do(
    dc: Datacenter, force: bool
) -> None:
    """The judge is cryptography's path validation."""
    old = [await dc.sign(name) for name in ("web", "db")]
    bundle_before = trust_anchors(dc.state)
    body = {"Config": {"PrivateKeyBits": 384}, "ForceWithoutCrossSigning": force}

    plan = await planned(dc, **body)

    assert plan["LiveLeaves"] == 2
    assert await done(dc, **body) == "rotate"
    await dc.act()
    new, now = await dc.sign(), dc.clock.now()
    bundles = {
        "the new bundle": trust_anchors(dc.state),
        "the bundle of before": bundle_before,
        "the new root alone": trust_anchors(dc.state)[-1:],
    }
    assert [verifier["Holds"] for verifier in plan["Verifiers"]] == list(bundles)
    for verifier in plan["Verifiers"]:
        holds = bundles[verifier["Holds"]]
        assert {leaf.verifies(holds, now) for leaf in old} == {verifier["LiveLeaves"]}
        assert new.verifies(holds, now) == verifier["NewLeaves"]
    warned = "the new root is not signed by the old one" in " ".join(plan.get("Warnings", ()))
    assert warned == force


async def test_the_moments_of_a_plan_are_those_at_which_it_happens(dc: Datacenter) -> None:
    """Activation; and the old root's end, twice the life of a leaf after it."""
    body = {"Config": {"PrivateKeyBits": 384, "LeafCertTTL": "1h"}, "WaitSeconds": 60}
    plan = await planned(dc, **body)
    activate = datetime.fromisoformat(plan["ActivateAt"])
    prune = datetime.fromisoformat(plan["PruneAfter"])
    assert await done(dc, **body) == "rotate"

    assert (await dc.after(activate - dc.clock.now() - timedelta(seconds=1))).rotation is not None
    assert (await dc.after(timedelta(seconds=1))).rotation is None
    assert len((await dc.after(prune - dc.clock.now())).roots) == 2
    assert len((await dc.after(timedelta(minutes=2))).roots) == 1


async def test_a_plan_names_what_changes_as_operators_write_it_and_no_secret(
    dc: Datacenter,
) -> None:
    """H12."""
    body = {"Config": {**STRONG, "LeafCertTTL": "24h"}}

    plan = await planned(dc, **body)

    changes = {change["Key"]: (change["Before"], change["After"]) for change in plan["Changes"]}
    assert changes.keys() == {"LeafCertTTL", "CSRMaxPerSecond", "PrivateKey", "RootCert"}
    assert changes["LeafCertTTL"] == ("72h", "24h")
    assert changes["PrivateKey"][0] is None
    assert changes["PrivateKey"][1].startswith("key:")
    assert STRONG["PrivateKey"].splitlines()[1] not in str(plan)


async def test_a_given_root_is_not_made_to_expire_before_its_leaves(dc: Datacenter) -> None:
    root = given(days=10)
    await done(dc, Config=root)
    await dc.act()

    longer = await planned(dc, Config={**root, "LeafCertTTL": "360h"})
    assert longer["ProblemCode"] == "bad_config"
    assert "expires at" in longer["Problem"]
    assert (await done(dc, Config={**root, "LeafCertTTL": "360h"})).startswith("bad_config")
    dc.clock.forward(timedelta(days=8))  # now those of 72 h are outlived by none either
    assert await done(dc, Config={**root, "CSRMaxPerSecond": 5}) == "configure"
    assert await done(dc, Config={**root, "LeafCertTTL": "71h"}) == "configure"


async def test_what_an_operator_may_not_expect_is_warned_of(dc: Datacenter) -> None:
    weak = await planned(dc, **WEAK, ForceWithoutCrossSigning=True)
    assert any(
        "the root has path length 0; to sign another root it takes 1 with LeafSigner root and 2 "
        "with LeafSigner intermediate" in text
        for text in weak["Warnings"]
    )
    body = {"Config": {"LeafCertTTL": "1000h"}}
    assert "Warnings" not in await planned(dc, **body)
    await dc.after(timedelta(days=180))
    dc.clock.forward(timedelta(days=150))  # nobody renews meanwhile
    late = await planned(dc, **body)
    assert any("with the intermediate, until that is renewed" in text for text in late["Warnings"])


async def test_a_plan_for_a_command_that_was_carried_out_says_nothing_changes(
    dc: Datacenter,
) -> None:
    body = {"Config": {"LeafCertTTL": "1h"}, "RequestID": "r-1"}
    await done(dc, **body)
    await done(dc, Config={})

    assert (await planned(dc, **body))["Effect"] == "nothing"
    assert (await dc.command(SUBJECTS.config_set, **body))["Outcome"] == "done"


async def test_a_plan_that_is_refused_promises_nothing(dc: Datacenter) -> None:
    refused = await planned(dc, Config={"PrivateKeyBits": 384}, ModifyIndex=1)

    assert refused["ProblemCode"] == "conflict"
    assert refused["Changes"]
    assert not refused.keys() & {"Effects", "Verifiers", "Warnings", "ActivateAt", "PruneAfter"}


async def test_a_dry_run_of_a_rotation_is_its_plan(dc: Datacenter) -> None:
    body: dict[str, Any] = {"RequestID": "r-1", "WaitSeconds": 60, "DryRun": True}
    told = await planned(dc, SUBJECTS.rotation_start, **body)
    forced = await planned(dc, SUBJECTS.rotation_start, **body, ForceWithoutCrossSigning=True)

    assert (told["Effect"], told["CrossSigned"]) == ("rotate", True)
    activate_at = datetime.fromisoformat(told["ActivateAt"])
    assert activate_at == dc.clock.now() + timedelta(seconds=60)
    assert [each["NewLeaves"] for each in told["Verifiers"]] == [True, True, True]
    assert [each["NewLeaves"] for each in forced["Verifiers"]] == [True, False, True]
    begun = await dc.command(SUBJECTS.rotation_start, RequestID="r-1", WaitSeconds=60)
    assert datetime.fromisoformat(begun["ActivateAt"]) == activate_at.replace(microsecond=0)

    dc.clock.forward(timedelta(seconds=60))  # due, and not what a dry run may finish
    assert (await planned(dc, SUBJECTS.rotation_start, **body))["Effect"] == "nothing"
    other = await planned(dc, SUBJECTS.rotation_start, DryRun=True)
    assert (other["ProblemCode"], "Effects" in other) == ("busy", False)


async def test_a_dry_run_says_that_a_given_root_is_not_rotated(dc: Datacenter) -> None:
    await done(dc, Config=STRONG)

    told = await planned(dc, SUBJECTS.rotation_start, DryRun=True)

    assert told["ProblemCode"] == "bad_config"
    assert "the root's key was given" in told["Problem"]


@pytest.mark.parametrize("force", [False, True])
async def test_below_an_external_root_a_plan_says_who_needs_more_than_that(
    dc: Datacenter, force: bool
) -> None:
    """docs/consul.md: two certificates for one key, and some verifiers look at the first alone."""
    config = given_ca(number=20, certificates=2, now=NOW).config

    told = await planned(dc, Config=config, ForceWithoutCrossSigning=force)

    assert told["Verifiers"][2]["Holds"] == "the new root with what is above it"
    warned = [text for text in told["Warnings"] if "trusts only the root above the new" in text]
    assert len(warned) == (not force)
    assert await done(dc, Config=config, ForceWithoutCrossSigning=force) == "rotate"
    away = await planned(dc, Config={})
    assert any("trusts only the root above the old" in text for text in away["Warnings"])
