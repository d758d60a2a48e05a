"""`caledger ca` as an administrator types it, against one running datacenter."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.administration_client import AdministrationClient
from services.client import CaClient
from tests.scenarios.caledger import Caledger, Ran

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("cli_ca")]


_CLIENTS: dict[Caledger, CaClient] = {}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dev(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Caledger]:
    """One `caledger dev` for all tests of this file: none of them depends on another."""
    async with Caledger(tmp_path_factory.mktemp("cli")) as running:
        yield running


async def client(dev: Caledger) -> CaClient:
    """Return one connection for all tests: what is not typed need not be a process."""
    if dev not in _CLIENTS:
        _CLIENTS[dev] = await dev.client()
    return _CLIENTS[dev]


async def ca(dev: Caledger, *arguments: str | Path, code: int = 0) -> Ran:
    ran = await dev.run("ca", *arguments)
    assert ran.code == code, ran
    return ran


async def told(dev: Caledger, *arguments: str | Path) -> dict[str, Any]:
    """Return what a command answers in JSON."""
    return json.loads((await ca(dev, *arguments, "--json")).out)  # type: ignore[no-any-return]


def write(dev: Caledger, name: str, document: dict[str, Any]) -> Path:
    file = dev.folder / name
    file.write_text(json.dumps(document))
    file.chmod(0o600)
    return file


async def configuration(dev: Caledger) -> dict[str, Any]:
    return json.loads(  # type: ignore[no-any-return]
        await AdministrationClient(await client(dev)).get_config()
    )


async def edited(dev: Caledger, name: str, **fields: Any) -> Path:
    """Write the configuration that there is, with other fields, as an operator edits it."""
    document = await configuration(dev)
    document["Config"].update(fields)
    return write(dev, name, document)


async def roots(dev: Caledger) -> list[dict[str, Any]]:
    return json.loads(await (await client(dev)).roots())["Roots"]  # type: ignore[no-any-return]


async def signed(dev: Caledger, name: str) -> str:
    """Have a certificate signed, into a folder of its name; return its serial number."""
    ran = await dev.run("sign", "service", name, "--json")
    assert ran.code == 0, ran
    return str(json.loads(ran.out)["SerialNumber"])


async def openssl(dev: Caledger, name: str, lists: str) -> str:
    """Return what `openssl verify` says of a service, with all lists and its own bundle."""
    folder = dev.folder / name
    process = await asyncio.create_subprocess_exec(
        *("openssl", "verify", "-x509_strict", "-crl_check_all", "-CRLfile", lists),
        *("-CAfile", str(folder / f"{name}-roots.pem")),
        *("-untrusted", str(folder / f"{name}.pem"), str(folder / f"{name}.pem")),
        cwd=dev.folder,
        stdout=-1,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return out.decode()


async def test_the_configuration_that_is_shown_is_taken_back_and_changes_nothing(
    dev: Caledger,
) -> None:
    ran = await ca(dev, "get-config")
    shown = json.loads(ran.out)
    assert ran.out.startswith('{\n    "Provider": "consul",\n')
    assert shown["Config"]["LeafCertTTL"] == "72h"
    assert shown["ModifyIndex"] >= shown["CreateIndex"] > 0
    assert json.loads((await ca(dev, "get-config", "--json")).out) == shown
    write(dev, "same.json", shown)

    plan = await ca(dev, "plan", "-config-file", "same.json")
    set_again = await ca(dev, "set-config", "-config-file", "same.json")

    assert plan.out == "plan: nothing would change\n"
    assert set_again.out == "nothing to change\n"
    assert await configuration(dev) == shown


async def test_a_changed_life_is_planned_told_and_set_under_the_same_root(dev: Caledger) -> None:
    before = await roots(dev)
    await edited(dev, "life.json", LeafCertTTL="48h")

    plan = await ca(dev, "plan", "--config", "life.json")
    ran = await ca(dev, "set-config", "-config-file", "life.json")

    assert "change   LeafCertTTL: 72h -> 48h" in plan.out
    assert ran.err.startswith(plan.out.splitlines()[0])
    assert ran.out.startswith("Configuration updated! ModifyIndex ")
    assert [root["ID"] for root in await roots(dev)] == [root["ID"] for root in before]
    await signed(dev, "short")
    [leaf, *_] = x509.load_pem_x509_certificates((dev.folder / "short/short.pem").read_bytes())
    life = leaf.not_valid_after_utc - datetime.now(UTC)
    assert 47 < life.total_seconds() / 3600 < 48.1
    again = await ca(dev, "set-config", "-config-file", "life.json", code=1)
    assert again.err.splitlines()[-1] == (
        "caledger: refused: conflict: ModifyIndex did not match existing"
    )


@pytest.mark.slow
async def test_both_json_forms_are_taken_and_a_misspelt_key_is_named(dev: Caledger) -> None:
    write(dev, "snake.json", {"provider": "consul", "config": {"leaf_cert_ttl": "72h"}})
    write(dev, "misspelt.json", {"Config": {"LeafCertTLT": "72h"}})

    assert (await told(dev, "plan", "--config", "snake.json"))["Effect"] in ("configure", "nothing")
    ran = await ca(dev, "set-config", "-config-file", "misspelt.json", code=1)
    assert ran.err == (
        "caledger: refused: bad_config: Config: there is no key 'LeafCertTLT': did you mean "
        "'LeafCertTTL'?\n"
    )


@pytest.mark.slow
async def test_only_the_configuration_that_was_looked_at_is_replaced(dev: Caledger) -> None:
    write(dev, "plain.json", {"Config": {"CSRMaxPerSecond": 77}})
    index = (await configuration(dev))["ModifyIndex"]

    refused = await ca(dev, "set-config", "-config-file", "plain.json", "--cas", "1", code=1)
    await ca(dev, "set-config", "-config-file", "plain.json", "--modify-index", str(index))

    assert "ModifyIndex did not match existing" in refused.err
    shown = await configuration(dev)
    assert shown["Config"]["CSRMaxPerSecond"] == 77
    assert shown["ModifyIndex"] > index


async def test_another_kind_of_key_rotates_and_a_plan_says_so_without_doing_it(
    dev: Caledger,
) -> None:
    before = await roots(dev)
    bits = 384 if before[-1]["PrivateKeyBits"] == 256 else 256
    await edited(dev, "key.json", PrivateKeyBits=bits)

    plan = await told(dev, "plan", "--config", "key.json")
    assert await roots(dev) == before
    ran = await told(dev, "set-config", "-config-file", "key.json")

    assert plan["Effect"] == "rotate"
    assert plan["CrossSigned"]
    assert ran["Outcome"] == "rotated"
    [*old, new] = await roots(dev)
    assert [root["ID"] for root in old] == [root["ID"] for root in before]
    assert (new["ID"], new["PrivateKeyBits"]) == (ran["RootID"], bits)
    assert new["Active"]


@pytest.mark.slow
async def test_a_command_of_one_request_id_is_carried_out_once(dev: Caledger) -> None:
    first = await told(dev, "rotate", "--request-id", "once")
    count = len(await roots(dev))

    again = await ca(dev, "rotate", "--request-id", "once")

    assert first["Outcome"] == "rotated"
    assert again.out.startswith("this was done before; state INITIALIZED")
    assert len(await roots(dev)) == count


@pytest.mark.slow
async def test_a_rotation_that_waits_is_told_refuses_others_and_is_given_up(
    dev: Caledger,
) -> None:
    before = await roots(dev)
    dry = await ca(dev, "rotate", "--dry-run", "--wait", "600")
    assert dry.out.startswith("plan: rotation to another root\n")
    assert "holding the bundle of before: live leaves accepted, new leaves accepted" in dry.out
    assert await roots(dev) == before

    ran = await ca(dev, "rotate", "--wait", "600")
    assert ran.out.startswith("rotating: root ")
    assert "caledger ca rotate --abort" in ran.out
    assert len(await roots(dev)) == len(before) + 1
    refused = await ca(dev, "rotate", "--dry-run", code=1)
    assert '  REFUSED  busy: CA is already in state "RECONFIGURING"' in refused.out
    busy = await ca(dev, "rotate", code=1)
    assert busy.err == 'caledger: refused: busy: CA is already in state "RECONFIGURING"\n'
    write(dev, "busy.json", {"Config": {}})
    plan = await ca(dev, "plan", "--config", "busy.json", code=1)
    assert '  REFUSED  busy: CA is already in state "RECONFIGURING"' in plan.out
    given_up = await ca(dev, "rotate", "--abort", "--reason", "a mistake")

    assert given_up.out.startswith("the rotation was given up; root ")
    assert [root["ID"] for root in await roots(dev)] == [root["ID"] for root in before]
    nothing = await ca(dev, "rotate", "--abort", code=1)
    assert nothing.err == "caledger: refused: conflict: no rotation is on its way\n"


@pytest.mark.slow
async def test_a_rotation_that_waited_long_enough_is_finished(dev: Caledger) -> None:
    ran = await told(dev, "rotate", "--wait", "2")
    assert ran["Outcome"] == "rotating"

    deadline = time.monotonic() + 20
    while not any(root["ID"] == ran["RootID"] and root["Active"] for root in await roots(dev)):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)


@pytest.mark.slow
async def test_a_given_root_is_taken_and_its_key_is_neither_shown_nor_on_the_ledger(
    dev: Caledger,
) -> None:
    """H12."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode()
    secret = pem.splitlines()[1]
    write(dev, "given.json", {"Config": {"PrivateKey": pem}}).chmod(0o644)

    ran = await ca(dev, "set-config", "-config-file", "given.json")

    assert "its mode 0644 lets others read it" in ran.err
    assert ran.out.startswith("rotated: root ")
    shown = (await ca(dev, "get-config")).out
    assert json.loads(shown)["Config"]["PrivateKey"].startswith("key:")
    ledger = (await dev.run("ledger", "replay", "--json")).out
    for text in (ran.out, ran.err, shown, ledger, dev.log):
        assert secret not in text
    back = write(dev, "own.json", {"Config": {}})
    assert (await told(dev, "set-config", "-config-file", back))["Outcome"] == "rotated"


@pytest.mark.slow
async def test_leaves_are_counted_then_revoked_and_openssl_hears_of_it(dev: Caledger) -> None:
    serial = await signed(dev, "stolen")
    await signed(dev, "kept")

    counted = await ca(dev, "revoke", "--identity", "service.stolen", "--dry-run")
    assert counted.out.startswith("1 live leaf would be revoked\n       1  spiffe://")
    asked = await ca(dev, "revoke", "--serial", serial, code=2)
    assert "nothing was revoked: say --yes, there is no terminal to ask" in asked.err
    (dev.folder / "before.pem").write_text((await ca(dev, "crl")).out)
    assert await openssl(dev, "stolen", "before.pem") == f"{dev.folder}/stolen/stolen.pem: OK\n"

    command = ("revoke", "--serial", serial, "--reason", "keyCompromise", "--yes")
    ran = await ca(dev, *command, "--request-id", "revoke-1")

    assert ran.out.startswith("1 live leaf was revoked\n       1  spiffe://")
    await ca(dev, "crl", "--out", "lists")
    files = sorted((dev.folder / "lists").iterdir())
    assert len(files) > 1
    (dev.folder / "after.pem").write_text("".join(file.read_text() for file in files))
    assert "certificate revoked" in await openssl(dev, "stolen", "after.pem")
    assert await openssl(dev, "kept", "after.pem") == f"{dev.folder}/kept/kept.pem: OK\n"
    again = await ca(dev, *command, "--request-id", "revoke-1")
    assert again.out == "these were revoked before\n"
    nothing = await ca(dev, "revoke", "--serial", serial, "--serial", "0c:0d", "--yes")
    assert nothing.out == "nothing to revoke\n"
    assert nothing.err == f"revoked before: {serial}\nunknown or expired: 0c:0d\n"
    unknown = await ca(dev, "revoke", "--serial", "c0d", "--yes", code=1)
    assert unknown.err.startswith("unknown or expired: 0c:0d\ncaledger: nothing was revoked")


@pytest.mark.slow
async def test_leaves_are_chosen_by_the_time_in_which_they_were_issued(dev: Caledger) -> None:
    await signed(dev, "timely")
    only = ("revoke", "--identity", "service.timely", "--dry-run")

    lately = await told(dev, *only, "--issued-between", "1h", "now")
    earlier = await told(dev, *only, "--issued-between", "2h", "1h")

    assert lately["LiveLeaves"] == 1
    assert earlier["LiveLeaves"] == 0


@pytest.mark.slow
async def test_a_list_is_asked_for_by_its_issuer(dev: Caledger) -> None:
    lists = (await told(dev, "crl"))["Lists"]

    ran = await ca(dev, "crl", "--issuer", lists[0]["IssuerKeyID"])
    unknown = await ca(dev, "crl", "--issuer", "0" * 64, code=1)

    assert ran.out == lists[0]["CRL"]
    assert x509.load_pem_x509_crl(ran.out.encode()).extensions
    assert lists[0]["IssuerKeyID"] in ran.err
    assert "refused: not_found: " in unknown.err


@pytest.mark.slow
async def test_whoever_sits_at_a_terminal_is_asked(dev: Caledger) -> None:
    """`script` gives the command a terminal."""
    serial = await signed(dev, "asked")
    command = f"{sys.executable} -m services.cli ca revoke --serial {serial} --data {dev.data}"

    async def answer(text: str) -> tuple[str, int | None]:
        process = await asyncio.create_subprocess_exec(
            *("script", "--quiet", "--return", "--command", command, "/dev/null"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(process.communicate(text.encode()), 60)
        return out.decode(), process.returncode

    refused, refused_code = await answer("n\n")
    done, done_code = await answer("y\n")

    assert "Revoke them? [y/N]" in refused
    assert "nothing was revoked" in refused
    assert "1 live leaf was revoked" in done
    assert (refused_code, done_code) == (1, 0)


@pytest.mark.slow
async def test_a_root_with_live_leaves_is_pruned_only_by_force(dev: Caledger) -> None:
    await signed(dev, "cut")
    old = next(root["ID"] for root in await roots(dev) if root["Active"])
    active = await ca(dev, "prune", old, code=1)
    assert f"root {old} is active: rotate first" in active.err
    await ca(dev, "rotate")

    counted = await told(dev, "prune", old.upper().replace(":", ""), "--dry-run")
    refused = await ca(dev, "prune", old, code=1)
    ran = await ca(dev, "prune", old, "--force")

    assert counted["LiveLeaves"] >= 1
    assert re.search(rf"\d+ live lea\w+ below root {old}: verifiers would not", refused.err)
    assert refused.err.endswith("; here that is --force\n")
    gone = f"root {old} is trusted no more; {counted['LiveLeaves']} live lea"
    assert ran.out.startswith(gone)
    assert old not in [root["ID"] for root in await roots(dev)]
    unknown = await ca(dev, "prune", "00:11", code=1)
    assert "there is no trusted root 00:11" in unknown.err


@pytest.mark.parametrize(
    ("user", "commands"),
    [
        (
            "auditor",
            (("get-config",), ("set-config", "-config-file", "any.json"), ("rotate",)),
        ),
        (
            "shop",
            (("plan", "--config", "any.json"), ("prune", "00:11"), ("revoke", "--serial", "1")),
        ),
    ],
)
async def test_who_may_not_administrate_is_told_at_once(
    dev: Caledger, user: str, commands: tuple[tuple[str, ...], ...]
) -> None:
    if user == "shop":
        await dev.run("user", "add", "shop", "--sign", "service.shop")
    write(dev, "any.json", {"Config": {}})

    for command in commands:
        ran = await ca(dev, *command, "--user", user, "--timeout", "50", code=4)

        assert ran.err.startswith("caledger: not permitted: this user may not use ca.dc1.")
    lists = await ca(dev, "crl", "--user", user)
    assert "-----BEGIN X509 CRL-----" in lists.out


async def test_a_command_that_nobody_answers_says_how_to_learn_what_became_of_it(
    dev: Caledger,
) -> None:
    """The CA manager stands still meanwhile; it finds the question when it goes on."""
    count = len(await roots(dev))
    dev.kill("root-manager", signal.SIGSTOP)
    try:
        silence = await ca(dev, "rotate", "--timeout", "2", code=3)
    finally:
        dev.kill("root-manager", signal.SIGCONT)
    found = re.search(
        r"this tells, and does it once: caledger ca rotate .*--request-id (\w+)$", silence.err
    )
    assert found is not None, silence

    await ca(dev, "rotate", "--request-id", found[1])

    assert len(await roots(dev)) == count + 1
