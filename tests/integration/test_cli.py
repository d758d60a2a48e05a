"""Every command, as a stranger types it, against one running datacenter."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from events.catalogue import TYPES
from services.pki import spiffe
from tests import factories
from tests.nats import free_port
from tests.scenarios.caledger import Caledger, Ran, run

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("cli")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dev(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Caledger]:
    """One `caledger dev` for all tests of this file: none of them depends on another."""
    async with Caledger(tmp_path_factory.mktemp("cli")) as running:
        yield running


async def openssl(*arguments: str | Path, cwd: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        "openssl", *map(str, arguments), cwd=cwd, stdout=-1, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    return out.decode()


async def identity(dev: Caledger, service: str) -> str:
    bundle = json.loads(await (await dev.client()).roots())
    return spiffe.service_id(bundle["TrustDomain"], "dc1", service)


def events(ran: Ran) -> list[dict[str, object]]:
    assert ran.code == 0, ran
    return [json.loads(line) for line in ran.out.splitlines()]


async def test_the_three_files_of_a_signed_service_satisfy_openssl(dev: Caledger) -> None:
    ran = await dev.run("sign", "service", "web", "--out", "web")

    assert ran.code == 0, ran
    folder = dev.folder / "web"
    assert sorted(file.name for file in folder.iterdir()) == [
        "web-key.pem",
        "web-roots.pem",
        "web.pem",
    ]
    assert stat.S_IMODE((folder / "web-key.pem").stat().st_mode) == 0o600
    told = await openssl(
        *("verify", "-x509_strict", "-CAfile", "web-roots.pem"),
        *("-untrusted", "web.pem", "web.pem"),
        cwd=folder,
    )
    assert told == "web.pem: OK\n"
    chain = x509.load_pem_x509_certificates((folder / "web.pem").read_bytes())
    key = serialization.load_pem_private_key((folder / "web-key.pem").read_bytes(), None)
    assert len(chain) == 2
    assert chain[0].public_key() == key.public_key()


async def test_the_same_request_id_again_gets_the_same_bytes(dev: Caledger) -> None:
    (dev.folder / "again.csr").write_bytes(
        factories.csr(uri=await identity(dev, "again"))  # DER
    )
    command = ("sign", "service", "again", "--csr", "again.csr", "--request-id", "A-1", "--json")

    first, second = await dev.run(*command), await dev.run(*command)

    assert first.code == second.code == 0, (first, second)
    assert first.out == second.out
    reply = json.loads(first.out)
    assert reply["ServiceURI"] == await identity(dev, "again")
    assert reply["CreateIndex"] == reply["ModifyIndex"] == reply["LedgerSequence"]
    assert sorted(file.name for file in (dev.folder / "again").iterdir()) == [
        "again-roots.pem",
        "again.pem",
    ]


async def test_a_request_id_with_another_csr_is_refused(dev: Caledger) -> None:
    assert (await dev.run("sign", "service", "twice", "--request-id", "T-1")).code == 0
    (dev.folder / "twice.csr").write_bytes(factories.csr(uri=await identity(dev, "twice")))

    ran = await dev.run("sign", "service", "twice", "--request-id", "T-1", "--csr", "twice.csr")

    assert ran.code == 1
    assert ran.err.startswith("caledger: refused: request_id_conflict: ")


async def test_a_request_id_again_without_a_csr_writes_the_same_files(dev: Caledger) -> None:
    command = ("sign", "service", "anew", "--request-id", "N-1", "--json")
    first = await dev.run(*command)
    folder = dev.folder / "anew"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    (folder / "anew.pem").unlink()
    (folder / "anew-roots.pem").unlink()

    second = await dev.run(*command)

    assert first.code == second.code == 0, second
    assert first.out == second.out
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert stat.S_IMODE((folder / "anew-key.pem").stat().st_mode) == 0o600


@pytest.mark.parametrize("key", ["", "no key", "another"])
async def test_a_request_id_whose_key_is_elsewhere_is_told_and_nothing_is_asked(
    dev: Caledger, key: str
) -> None:
    name = f"away{len(key)}"
    command = ("sign", "service", name, "--request-id", "W-1")
    assert (await dev.run(*command)).code == 0
    there = dev.folder / f"{name}-elsewhere"
    if key:
        key = factories.private_pem(factories.leaf_key()).decode() if key == "another" else key
        there.mkdir()
        (there / f"{name}-key.pem").write_text(key)
    position = (await dev.run("ledger", "verify", "--json")).out

    ran = await dev.run(*command, "--out", there)

    assert ran.code == 1, ran
    assert ran.err.startswith("caledger: request id W-1 has its certificate already (serial ")
    assert f"its key is not in {there}" in ran.err
    assert [file.read_text() for file in there.glob("*")] == ([key] if key else [])
    assert (await dev.run("ledger", "verify", "--json")).out == position


async def test_a_request_that_is_not_permitted_leaves_no_key(dev: Caledger) -> None:
    assert (await dev.run("user", "add", "narrow", "--sign", "service.narrow")).code == 0

    for more in ((), ("--request-id", "P-1")):
        ran = await dev.run("sign", "service", "forbidden", "--user", "narrow", *more)

        assert ran.code == 4, ran
        assert not (dev.folder / "forbidden").exists()


@pytest.mark.parametrize("key_type", ["p384", "rsa2048"])
async def test_a_key_of_another_type_can_be_asked_for(dev: Caledger, key_type: str) -> None:
    ran = await dev.run("sign", "service", "kind", "--out", key_type, "--key-type", key_type)

    assert ran.code == 0, ran
    leaf = x509.load_pem_x509_certificate((dev.folder / key_type / "kind.pem").read_bytes())
    key = factories.leaf_key(key_type)
    assert type(leaf.public_key()) is type(key.public_key())
    assert leaf.public_key().key_size == key.key_size  # type: ignore[union-attr]  # both have one


async def test_a_refusal_is_told_with_its_code_and_leaves_no_file(dev: Caledger) -> None:
    (dev.folder / "other.csr").write_bytes(factories.csr_pem(uri=await identity(dev, "other")))

    ran = await dev.run("sign", "service", "mine", "--csr", "other.csr")

    assert ran.code == 1
    assert ran.err.startswith("caledger: refused: identity_mismatch: ")
    assert ran.err.count("\n") == 1
    assert not (dev.folder / "mine").exists()


async def test_a_name_that_is_no_file_name_is_signed_too(dev: Caledger) -> None:
    ran = await dev.run("sign", "service", "a.b/c d")

    assert ran.code == 0, ran
    assert (dev.folder / "a%2Eb%2Fc%20d" / "a%2Eb%2Fc%20d.pem").exists()


async def test_the_server_is_found_by_context_and_by_environment(dev: Caledger) -> None:
    contexts = dev.data / "nats" / "context"
    by_context = await run(
        *("sign", "service", "ctx", "--context", "admin"),
        cwd=dev.folder,
        environment={"XDG_CONFIG_HOME": str(dev.data)},
    )
    by_environment = await run(
        *("sign", "service", "env"),
        cwd=dev.folder,
        environment={
            "NATS_URL": f"nats://127.0.0.1:{dev.port}",
            "NATS_CREDS": str(contexts / "admin.creds"),
        },
    )

    assert by_context.code == 0, by_context
    assert by_environment.code == 0, by_environment


async def test_what_answers_nothing_is_not_reachable(dev: Caledger) -> None:
    environment = {
        "NATS_URL": f"nats://127.0.0.1:{free_port()}",
        "NATS_CREDS": str(dev.data / "nats" / "context" / "admin.creds"),
    }

    ran = await run("roots", "get", cwd=dev.folder, environment=environment)

    assert ran.code == 3
    assert ran.err.startswith("caledger: not reachable: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("roots", "get", "--data", "nowhere"),
        ("roots", "get", "--data", "data", "--context", "admin"),
        ("roots", "get", "--user", "nobody"),
        ("ledger", "replay", "--type", "leaf.eaten"),
        ("ledger", "replay", "--since", "yesterday"),
        ("ledger", "replay", "--identity", "web"),
        ("ledger", "replay", "--from", "0"),
        ("ledger", "replay", "--serial", "bogus"),
        ("roots", "get", "--datacenter", "a.b"),
        ("user", "list", "--data", "nowhere"),
        ("projections", "position", "--data", "nowhere"),
        ("sign", "service"),
        ("sign", "service", ""),
        ("sign", "service", "x" * 300),
        ("sign", "service", "web", "--request-id", "no spaces"),
        ("sign", "service", "web", "--csr", "missing.csr"),
        ("sign", "service", "web", "--key-type", "ed25519"),
        ("user", "add", "x", "--expires", "soon"),
        ("user", "add", "x", "--sign", "web"),
        ("user", "add", "x y"),
        ("user", "add", "../../evil"),
        ("user", "add", "x", "--sign", "service.>"),
        ("user", "revoke", "nosuch"),
        ("sign", "service", "web", "--out", "/etc/passwd"),
        ("projections", "show", "--identity", "bogus"),
        ("projections", "show", "--identity", "spiffe://bogus"),
        ("dev", "--data", "data/caledger.toml"),
        ("dev", "--data", "data/caledger.toml/x"),
        ("dev", "--data", "/proc/foo"),
        ("init", "--data", "/proc/foo"),
        ("dev", "--data", "fresh", "--listen", "300.1.1.1"),
        ("run", "signer", "--config", "missing.toml"),
        ("run", "cook", "--config", "missing.toml"),
    ],
    ids=" ".join,
)
async def test_wrong_usage_ends_with_exit_code_2(dev: Caledger, arguments: tuple[str, ...]) -> None:
    ran = await dev.run(*arguments)

    assert ran.code == 2, ran
    assert "Traceback" not in ran.err


async def test_the_roots_are_shown_and_watched(dev: Caledger) -> None:
    got = await dev.run("roots", "get", "--json")
    watching = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "roots", "watch", "--json"),
        *("--data", str(dev.data)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert watching.stdout is not None
    first = await asyncio.wait_for(watching.stdout.readline(), 20)
    watching.send_signal(signal.SIGINT)

    assert json.loads(first) == json.loads(got.out)
    assert await asyncio.wait_for(watching.wait(), 20) == 0
    assert json.loads(got.out)["LedgerSequence"] > 0
    assert "trust domain" in (await dev.run("roots", "get")).out


async def test_a_replay_tells_every_event_in_order(dev: Caledger) -> None:
    replayed = events(await dev.run("ledger", "replay", "--json"))

    places = [(line["sequence"], line["position"]) for line in replayed]
    assert places == sorted(places)
    assert {sequence for sequence, _ in places} == set(range(1, places[-1][0] + 1))  # type: ignore[operator]  # JSON numbers
    assert set(replayed[0]) == {"sequence", "position", "stored", "event"}
    assert replayed[0]["event"]["type"] == "caledger.leadership.acquired.v1"  # type: ignore[index]  # a JSON object


async def test_a_replay_is_limited_to_what_is_asked_for(dev: Caledger) -> None:
    assert (await dev.run("sign", "service", "sought")).code == 0
    uri = await identity(dev, "sought")

    by_service = events(await dev.run("ledger", "replay", "--json", "--identity", "service.sought"))
    by_uri = events(await dev.run("ledger", "replay", "--json", "--identity", uri))
    by_type = events(await dev.run("ledger", "replay", "--json", "--type", "ca.configured"))
    by_sequence = events(await dev.run("ledger", "replay", "--json", "--from", "1", "--to", "1"))
    recent = events(await dev.run("ledger", "replay", "--json", "--since", "1d"))
    future = events(await dev.run("ledger", "replay", "--json", "--since", "2999-01-01"))

    assert [line["event"]["type"] for line in by_service] == ["caledger.leaf.issued.v1"]  # type: ignore[index]  # a JSON object
    assert by_uri == by_service
    assert [line["event"]["type"] for line in by_type] == ["caledger.ca.configured.v1"]  # type: ignore[index]  # a JSON object
    assert [line["sequence"] for line in by_sequence] == [1]
    assert len(recent) > 5
    assert future == []


async def test_a_certificate_is_found_by_the_serial_that_sign_and_openssl_print(
    dev: Caledger,
) -> None:
    signed = json.loads((await dev.run("sign", "service", "serial", "--json")).out)
    file = dev.folder / "serial" / "serial.pem"
    by_openssl = await openssl("x509", "-noout", "-serial", "-in", file, cwd=dev.folder)

    found = [
        events(await dev.run("ledger", "replay", "--json", "--serial", serial))
        for serial in (signed["SerialNumber"], by_openssl, by_openssl.strip().split("=")[1])
    ]
    shown = await dev.run("ledger", "replay", "--serial", signed["SerialNumber"])

    assert [[line["sequence"] for line in lines] for lines in found] == [
        [signed["LedgerSequence"]]
    ] * 3
    assert f" serial={signed['SerialNumber']} " in shown.out


async def test_a_replay_to_more_than_there_is_says_where_the_ledger_ends(dev: Caledger) -> None:
    ran = await dev.run("ledger", "replay", "--json", "--to", "1000000000")

    assert f"the ledger ends at sequence {events(ran)[-1]['sequence']}" in ran.err


async def test_a_replay_that_follows_tells_what_comes(dev: Caledger) -> None:
    following = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "ledger", "replay", "--json", "--follow"),
        *("--identity", "service.followed", "--data", str(dev.data)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert following.stdout is not None

    assert (await dev.run("sign", "service", "followed")).code == 0
    line = json.loads(await asyncio.wait_for(following.stdout.readline(), 20))
    following.send_signal(signal.SIGTERM)

    assert line["event"]["data"]["name"] == "followed"
    assert await asyncio.wait_for(following.wait(), 20) == 0


async def test_an_honest_ledger_verifies(dev: Caledger) -> None:
    shown = await dev.run("ledger", "verify")
    as_json = await dev.run("ledger", "verify", "--json")

    assert shown.code == as_json.code == 0, (shown, as_json)
    assert "no faults" in shown.out
    told = json.loads(as_json.out)
    assert told["faults"] == []
    assert told["summary"]["entries"] >= 5


async def test_the_projections_are_shown_and_rebuilt(dev: Caledger) -> None:
    assert (await dev.run("sign", "service", "projected")).code == 0
    uri = await identity(dev, "projected")
    reached = events(await dev.run("ledger", "replay", "--json"))[-1]["sequence"]

    rebuilt = await dev.run("projections", "rebuild", "--json")
    position = await dev.run("projections", "position")
    as_json = await dev.run("projections", "position", "--json")
    shown = json.loads((await dev.run("projections", "show", "--identity", uri, "--json")).out)
    by_name = await dev.run("projections", "show", "--identity", "service.projected", "--json")

    assert rebuilt.code == 0, rebuilt
    assert json.loads(rebuilt.out)["position"] >= reached
    assert int(position.out) >= reached  # type: ignore[operator]  # a JSON number
    assert json.loads(as_json.out)["position"] >= int(position.out)
    assert [leaf["leaf"]["name"] for leaf in shown["leaves"]] == ["projected"]
    assert json.loads(by_name.out)["leaves"] == shown["leaves"]


@pytest.mark.parametrize("command", ["replay", "verify"])
async def test_a_reader_that_goes_away_is_no_fault(dev: Caledger, command: str) -> None:
    """As with `caledger ledger replay | head -1`: no message, and how SIGPIPE ends a program."""
    reads, writes = os.pipe()
    os.close(reads)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "ledger", command, "--data", str(dev.data)),
        stdout=writes,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writes)
    _, err = await asyncio.wait_for(process.communicate(), 20)

    assert (process.returncode, err) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
async def test_output_that_cannot_be_written_is_told_in_a_line(dev: Caledger) -> None:
    with Path("/dev/full").open("wb") as full:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.cli", "ledger", "replay", "--data", str(dev.data)),
            stdout=full,
            stderr=asyncio.subprocess.PIPE,
        )
        _, err = await asyncio.wait_for(process.communicate(), 20)

    assert err == b"caledger: cannot write: No space left on device\n"
    assert process.returncode == 2


async def test_what_is_no_terminal_sees_no_wrapped_line(dev: Caledger) -> None:
    signed = await dev.run("sign", "service", "unwrapped", "--json", "--request-id", "u" * 64)
    serial = json.loads(signed.out)["SerialNumber"].replace(":", "").lstrip("0")
    shown = await dev.run("projections", "show", "--identity", "service.unwrapped")
    [root] = json.loads((await dev.run("roots", "get", "--json")).out)["Roots"]
    got = await dev.run("roots", "get")

    assert any(serial in line and "u" * 64 in line for line in shown.out.splitlines()), shown
    assert f"root {root['ID']}\n" in got.out
    assert max(map(len, got.out.splitlines())) <= 80


async def test_a_user_may_do_what_it_was_given_until_it_is_revoked(dev: Caledger) -> None:
    added = await dev.run("user", "add", "shop", "--sign", "service.shop", "--expires", "30d")
    may = await dev.run("sign", "service", "shop", "--user", "shop")
    began = time.monotonic()
    may_not = await dev.run("sign", "service", "db", "--user", "shop")
    took = time.monotonic() - began
    may_not_read = await dev.run("ledger", "replay", "--user", "shop")
    listed = await dev.run("user", "list", "--json")
    creds = (dev.data / "nats" / "context" / "shop.creds").read_bytes()
    revoked = await dev.run("user", "revoke", "shop", "--json")
    (dev.folder / "kept.creds").write_bytes(creds)
    afterwards = await run(
        *("sign", "service", "shop"),
        cwd=dev.folder,
        environment={
            "NATS_URL": f"nats://127.0.0.1:{dev.port}",
            "NATS_CREDS": str(dev.folder / "kept.creds"),
        },
    )

    assert added.code == may.code == revoked.code == 0, (added, may, revoked)
    assert json.loads(revoked.out) == {"user": "shop", "revoked": True}
    assert may_not.code == may_not_read.code == 4, (may_not, may_not_read)
    assert took < 5, "it waited for a time-out"
    assert not (dev.folder / "db" / "db.pem").exists()
    shop = [user for user in map(json.loads, listed.out.splitlines()) if user["name"] == "shop"]
    assert shop[0]["sign"] == ["service.shop"]
    assert afterwards.code == 4, afterwards


async def test_the_schemas_name_every_event(dev: Caledger) -> None:
    told = json.loads((await dev.run("schema")).out)

    events = told["$defs"]["caledger.entry"]["items"]["oneOf"]
    assert {event["properties"]["type"]["const"] for event in events} == set(TYPES)
    assert set(told["messages"]) == {
        *("request", "issued", "error", "roots", "status"),
        *("outcome", "planned", "configuration", "revocation_lists"),
    }
    assert set(TYPES) <= set(told["$defs"])
