"""`caledger dev` as a whole: what it says, what it survives, what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import sys
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from projections import signers
from services.nats_access import provision, server_process
from services.nats_access.addresses import local_addresses
from services.transport import NotSecureError, connect
from tests.nats import free_port
from tests.scenarios.caledger import PROGRAMS, WORKERS, Caledger, Ran, alive, run

ROOT = Path(__file__).parents[2]


async def signed(dev: Caledger, service: str, *arguments: str) -> Ran:
    """Ask for a certificate, and say what the log says where there is none."""
    ran = await dev.run("sign", "service", service, *arguments)
    assert ran.code == 0, f"{ran}\n{dev.log[-4000:]}"
    return ran


def free_ports() -> int:
    """Return the first of eight free ports in a row, none of which `free_port` gives away."""
    for base in random.sample(range(5_000, 9_900, 8), 100):
        with ExitStack() as stack, suppress(OSError):
            for port in range(base, base + 8):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return base
    raise AssertionError("all ports are taken")


async def each_tells_its_metrics(dev: Caledger, base: int) -> None:
    """Scrape every worker as Prometheus does; names are those of docs/metrics.md."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    named = re.findall(r"^\| `(caledger_[a-z_]+)`", text, re.MULTILINE)
    documented = {name.removesuffix("_total") for name in named}
    seen: set[str] = set()
    values: dict[str, dict[str, float]] = {}
    for number, worker in enumerate(WORKERS):
        url = f"http://127.0.0.1:{base + number}"
        async with asyncio.timeout(20):
            while (ready := await asyncio.to_thread(got, f"{url}/readyz"))[0] != 200:
                await asyncio.sleep(0.1)
            while (
                "\ncaledger_ledger_last_sequence 0.0"
                in ((await asyncio.to_thread(got, f"{url}/metrics"))[1])
            ):
                await asyncio.sleep(0.1)  # it may be from before the first entry: five seconds old
        assert json.loads(ready[1]) == {"ready": True, "missing": {}}
        assert (await asyncio.to_thread(got, f"{url}/healthz"))[0] == 200
        _, body = await asyncio.to_thread(got, f"{url}/metrics")
        families = [*text_string_to_metric_families(body)]
        samples = [sample for family in families for sample in family.samples]
        names = {family.name.removesuffix("_total") for family in families}
        seen |= {name for name in names if name.startswith("caledger_")}
        values[worker] = {sample.name: sample.value for sample in samples}
        [info] = [sample.labels for sample in samples if sample.name == "caledger_worker"]
        assert f"{info['worker']}-{info['slot']}".startswith(worker)
        assert values[worker]["caledger_nats_connected"] == 1
        assert values[worker]["caledger_ledger_last_sequence"] > 0
        assert values[worker]["process_resident_memory_bytes"] > 0
    assert seen == documented
    manager, signers = values["root-manager"], [values["signer-0"], values["signer-1"]]
    assert manager["caledger_is_leader"] == values["leader-elector"]["caledger_leader_lease_held"]
    assert manager["caledger_is_leader"] == 1
    assert manager["caledger_mesh_active_root_ca_expiry_seconds"] > 9 * 365 * 86_400
    assert values["replicator"]["caledger_void_entries"] == 0
    assert values["replicator"]["caledger_projections_position"] > 0
    assert sum(signer["caledger_partitions_held"] for signer in signers) == 64
    assert sum(signer["caledger_signatures_issued_total"] for signer in signers) == 1
    assert sum(signer["caledger_sign_seconds_count"] for signer in signers) == 1
    assert sum(signer["caledger_append_seconds_count"] for signer in signers) == 1


def got(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def gone(pids: dict[str, int], *, timeout: float = 20.0) -> None:
    deadline = asyncio.get_running_loop().time() + timeout
    while left := {name for name, pid in pids.items() if alive(pid)}:
        assert asyncio.get_running_loop().time() < deadline, f"still running: {left}"
        await asyncio.sleep(0.05)


async def test_a_second_start_goes_on_with_the_same_ledger(tmp_path: Path) -> None:
    first = Caledger(tmp_path, "--metrics-port", str(base := free_ports()))
    async with first:
        assert (
            first.out == f"ready nats://127.0.0.1:{first.port} datacenter=dc1 data={first.data}\n"
        )
        assert "rate limit of signing requests is off" in first.log
        assert signers.holders(first.data / "projections.sqlite") == 2, "each has its share"
        roots = (await first.run("roots", "get", "--json")).out
        before = await signed(first, "web", "--request-id", "R-1", "--json")
        await each_tells_its_metrics(first, base)
        status = await first.run("status", "--user", "auditor")
        assert status.code == 0, status
        assert "INITIALIZED, can sign" in status.out
        running = first.pids()
        assert set(running) == set(PROGRAMS)
    assert first.code == 0
    await gone(running)

    async with Caledger(tmp_path) as second:  # another port: creds and contexts follow
        assert (await second.run("roots", "get", "--json")).out == roots
        looked_up = await (await second.client()).lookup("web", request_id="R-1")
        assert looked_up.decode() == before.out.strip()
        verified = await second.run("ledger", "verify")
        assert verified.code == 0, verified


async def test_ctrl_c_ends_it_cleanly_and_a_kill_leaves_no_process(tmp_path: Path) -> None:
    dev = Caledger(tmp_path)
    await dev.start()
    running = dev.pids()
    assert await dev.stop(signal.SIGINT) == 0
    await gone(running)

    await dev.start()
    running = dev.pids()
    await dev.stop(signal.SIGKILL)
    await gone(running)


@pytest.mark.parametrize("appears", ["dev.lock", "nats/init.log", "run/nats-server.pid"])
async def test_it_can_be_stopped_before_it_is_ready(tmp_path: Path, appears: str) -> None:
    dev = Caledger(tmp_path)
    await dev.launch()
    await dev.until((dev.data / appears).exists, 20, f"{appears} does not appear")

    assert await dev.stop() == 0, dev.log
    assert dev.out == ""
    assert list(dev.data.glob("run/*.pid")) == []


async def test_a_folder_that_is_in_use_is_an_error(tmp_path: Path) -> None:
    async with Caledger(tmp_path) as dev:
        second = await run("dev", "--data", dev.data, cwd=tmp_path)
        init = await run("init", "--data", dev.data, cwd=tmp_path)

        assert second.code == init.code == 2
        assert f"in use by another caledger (process {dev.supervisor})" in second.err
        assert second.err == init.err
        await signed(dev, "web")


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--datacenter", "dc2", "datacenter dc1, not dc2"),
        ("--trust-domain", "other.example", "trust domain mesh.example, not other.example"),
        ("--csr-max-per-second", "50", "rate limit 0.0, not 50.0"),
    ],
)
async def test_an_option_that_contradicts_the_folder_is_an_error(
    tmp_path: Path, option: str, value: str, told: str
) -> None:
    data = tmp_path / "data"
    made = await run(
        *("init", "--data", data, "--datacenter", "dc1", "--trust-domain", "mesh.example"),
        *("--csr-max-per-second", "0", "--nats-port", str(free_port())),
        cwd=tmp_path,
    )
    before = (data / "caledger.toml").read_bytes()

    ran = await run("dev", "--data", data, option, value, cwd=tmp_path)

    assert made.code == 0, made
    assert ran.code == 2, ran
    assert told in ran.err
    assert (data / "caledger.toml").read_bytes() == before


async def test_init_made_again_changes_nothing(tmp_path: Path) -> None:
    command = ("init", "--data", tmp_path / "data", "--nats-port", str(free_port()))
    assert (await run(*command, cwd=tmp_path)).code == 0
    before = secrets_of(tmp_path / "data")

    assert (await run(*command, cwd=tmp_path)).code == 0

    assert secrets_of(tmp_path / "data") == before


STEPS = (
    "init.pinned",
    "init.keks",
    "init.nats_seed_ca",
    "init.nats_token_sys",
    "init.nats_accounts",
    "init.nats_workers",
    "init.configured",
    "init.streams_made",
)


@pytest.mark.slow
async def test_init_that_was_killed_at_any_step_is_finished_by_the_next(tmp_path: Path) -> None:
    command = ("init", "--data", tmp_path / "data", "--nats-port", str(free_port()))
    for step in STEPS:
        killed = await run(
            *command, cwd=tmp_path, environment={"CALEDGER_TESTING_STOP_AT": f"{step}=KILL"}
        )
        assert killed.code == -signal.SIGKILL, (step, killed)

    done = await run(*command, cwd=tmp_path)

    assert done.code == 0, done
    assert provision.load(tmp_path / "data").datacenter == "dc1"
    async with Caledger(tmp_path) as dev:
        await signed(dev, "web")


def secrets_of(data: Path) -> dict[str, bytes]:
    files = (*data.glob("keys/*"), *data.glob("nats/**/*.creds"), *data.glob("nats/**/*.sealed"))
    assert len(files) > 10
    return {str(file): file.read_bytes() for file in files}


async def test_a_port_that_was_asked_for_and_is_taken_is_an_error(tmp_path: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        ran = await run("dev", "--data", tmp_path / "data", "--nats-port", str(port), cwd=tmp_path)

    assert ran.code == 2, ran
    assert f"port {port} of 127.0.0.1 is taken" in ran.err


async def test_a_usual_port_that_is_taken_is_replaced(tmp_path: Path) -> None:
    data = tmp_path / "data"
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        # The folder's own port, that somebody else took since.
        made = await run("init", "--data", data, "--nats-port", str(free_port()), cwd=tmp_path)
        file = data / "caledger.toml"
        lines = [
            f"port = {port}" if line.startswith("port = ") else line
            for line in file.read_text().splitlines()
        ]
        file.write_text("\n".join(lines))

        again = await run("init", "--data", data, cwd=tmp_path)

    assert made.code == again.code == 0, (made, again)
    url = json.loads((data / "nats" / "context" / "admin.json").read_text())["url"]
    assert url.startswith("nats://127.0.0.1:")
    assert not url.endswith(f":{port}")


async def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    ran = await run("dev", "--data", tmp_path, cwd=tmp_path)

    assert ran.code == 2
    assert "thesis.txt" in ran.err
    assert {file.name for file in tmp_path.iterdir()} == {"thesis.txt", "dev.lock"}


async def test_a_lost_key_encryption_key_is_not_made_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert (
        await run("init", "--data", data, "--nats-port", str(free_port()), cwd=tmp_path)
    ).code == 0
    (data / "keys" / "root.kek").unlink()

    ran = await run("dev", "--data", data, cwd=tmp_path)

    assert ran.code == 2
    assert "root.kek is missing" in ran.err
    assert not (data / "keys" / "root.kek").exists()


@pytest.mark.parametrize("name", ["root", "signing", "nats"])
async def test_a_key_encryption_key_that_others_may_read_is_told_first(
    tmp_path: Path, name: str
) -> None:
    data = tmp_path / "data"
    command = ("init", "--data", data, "--nats-port", str(free_port()))
    assert (await run(*command, cwd=tmp_path)).code == 0
    (data / "keys" / f"{name}.kek").chmod(0o644)

    ran = await run("dev", "--data", data, cwd=tmp_path)

    assert ran.code == 2, ran
    assert f"chmod 600 {data / 'keys' / f'{name}.kek'}" in ran.err
    assert not (data / "run").exists()


@pytest.mark.slow
async def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / 'dä ta "q"'
    folder.mkdir()
    async with Caledger(folder) as dev:
        await signed(dev, "web")
    async with Caledger(folder) as dev:
        assert (await dev.run("ledger", "verify")).code == 0


async def test_a_worker_refuses_to_run_without_its_assertions(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert (
        await run("init", "--data", data, "--nats-port", str(free_port()), cwd=tmp_path)
    ).code == 0

    ran = await run(
        *("run", "replicator", "--config", data / "caledger.toml"),
        cwd=tmp_path,
        environment={"PYTHONOPTIMIZE": "1"},
    )

    assert ran.code == 2
    assert "python -O" in ran.err


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("root"),
        pytest.param("signing", marks=pytest.mark.slow),
        pytest.param("nats", marks=pytest.mark.slow),
    ],
)
async def test_a_wrong_key_encryption_key_is_told_and_changes_nothing(
    tmp_path: Path, name: str
) -> None:
    """Architecture section 7: a clear error; with the right key everything is as it was."""
    async with Caledger(tmp_path) as dev:
        roots = (await dev.run("roots", "get", "--json")).out
        before = await signed(dev, "web", "--request-id", "R-1", "--json")
    kek = tmp_path / "data" / "keys" / f"{name}.kek"
    right = kek.read_text()
    kek.write_text("ab" * 32)

    wrong = await run(
        *("dev", "--data", tmp_path / "data", "--nats-port", str(free_port())),
        cwd=tmp_path,
        timeout=60,
    )

    assert wrong.code == 2, wrong
    assert "ready" not in wrong.out
    assert "key-encryption key" in wrong.err
    assert "Traceback" not in wrong.err
    kek.write_text(right)
    async with Caledger(tmp_path) as dev:
        assert (await dev.run("roots", "get", "--json")).out == roots
        looked_up = await (await dev.client()).lookup("web", request_id="R-1")
        assert looked_up.decode() == before.out.strip()
        assert (await dev.run("ledger", "verify")).code == 0


async def test_no_answer_in_time_keeps_the_key_for_the_same_request(tmp_path: Path) -> None:
    async with Caledger(tmp_path) as dev:
        paused = [dev.kill(f"signer-{slot}", signal.SIGSTOP) for slot in (0, 1)]
        late = await dev.run("sign", "service", "web", "--timeout", "0.7")
        told = re.search(r"--request-id (\w+)$", late.err)
        assert told is not None, late
        for pid in paused:
            os.kill(pid, signal.SIGCONT)
        waiting = {file.name for file in (tmp_path / "web").iterdir()}
        key = (tmp_path / "web" / f".web-{told[1]}-key.pem").read_bytes()
        again = await signed(dev, "web", "--request-id", told[1])

        assert late.code == 3, late
        assert waiting == {f".web-{told[1]}-key.pem", f".web-{told[1]}.csr"}
        assert (tmp_path / "web" / "web-key.pem").read_bytes() == key
        assert {file.name for file in (tmp_path / "web").iterdir()} == {
            "web.pem",
            "web-key.pem",
            "web-roots.pem",
        }, again


@pytest.mark.slow
async def test_a_listener_that_others_reach_speaks_tls_only(tmp_path: Path) -> None:
    """Whoever reaches it by another of its names or addresses knows it by its certificate."""
    async with Caledger(tmp_path, "--listen", "0.0.0.0", "--advertise", "localhost") as dev:
        assert dev.out.startswith(f"ready tls://127.0.0.1:{dev.port} ")
        await signed(dev, "web")
        added = await dev.run("user", "add", "shop", "--sign", "service.shop")
        assert added.code == 0, added
        await signed(dev, "shop", "--user", "shop")
        context = json.loads((dev.data / "nats" / "context" / "admin.json").read_text())
        assert context["tls_first"] is True
        by_environment = await run(
            *("roots", "get"),
            cwd=tmp_path,
            environment={
                "NATS_URL": context["url"],
                "NATS_CREDS": context["creds"],
                "NATS_CA": context["ca"],
            },
        )
        assert by_environment.code == 0, by_environment
        own = [str(address) for address in local_addresses() if address.version == 4]
        for host in (*own, "localhost"):  # the server listens on IPv4 here
            elsewhere = await run(
                *("roots", "get"),
                cwd=tmp_path,
                environment={
                    "NATS_URL": f"tls://{host}:{dev.port}",
                    "NATS_CREDS": context["creds"],
                    "NATS_CA": context["ca"],
                },
            )
            assert elsewhere.code == 0, (host, elsewhere)
        with pytest.raises(NotSecureError):
            await connect(
                [f"nats://127.0.0.1:{dev.port}"],
                creds=Path(context["creds"]),
                ca=None,
                name="clear text",
            )
    # It stays so without the option, and on loopback.
    async with Caledger(tmp_path, "--listen", "127.0.0.1") as dev:
        assert dev.out.startswith(f"ready tls://127.0.0.1:{dev.port} ")


def as_user(dev: Caledger, creds: Path) -> dict[str, str]:
    return {"NATS_URL": f"nats://127.0.0.1:{dev.port}", "NATS_CREDS": str(creds)}


@pytest.mark.slow
async def test_an_admin_that_was_revoked_is_not_made_again_by_a_start(tmp_path: Path) -> None:
    async with Caledger(tmp_path) as dev:
        (tmp_path / "kept.creds").write_bytes(
            (dev.data / "nats" / "context" / "admin.creds").read_bytes()
        )
        assert (await dev.run("user", "revoke", "admin")).code == 0
        # Everybody else goes on: to add one takes no admin.
        assert (await dev.run("user", "add", "mesh", "--sign", "service.*")).code == 0
        await signed(dev, "web", "--user", "mesh")
    async with Caledger(tmp_path) as dev:  # and it is ready
        assert "there is no admin any more; `caledger user add admin` makes one" in dev.log
        refused = await dev.run("roots", "get")
        listed = (await dev.run("user", "list")).out
        as_json = (await dev.run("user", "list", "--json")).out
        known = [json.loads(line) for line in as_json.splitlines()]
        added = await dev.run("user", "add", "admin")
        kept = await run(
            "roots", "get", cwd=tmp_path, environment=as_user(dev, tmp_path / "kept.creds")
        )

        assert refused.code == 2
        assert "`caledger user add admin`" in refused.err
        [revocation] = known[0]["revocations"]
        assert (known[0]["name"], known[0]["sign"]) == ("admin", ["*"])
        assert revocation["key"] in known[0]["keys"]
        assert any(
            line.startswith("revoked ") and line.endswith(f"admin  {revocation['key']}")
            for line in listed.splitlines()
        )
        assert added.code == 0, added
        assert kept.code == 4, kept
        await signed(dev, "api")
        assert not (dev.data / "run" / "ready.creds").exists()


@pytest.mark.slow
async def test_creds_of_the_admin_that_were_lost_are_told_and_shut_out_by_new_ones(
    tmp_path: Path,
) -> None:
    async with Caledger(tmp_path) as dev:
        pass
    lost = tmp_path / "lost.creds"
    (dev.data / "nats" / "context" / "admin.creds").rename(lost)
    (dev.data / "nats" / "context" / "admin.json").unlink()
    async with Caledger(tmp_path) as dev:
        before = await run("roots", "get", cwd=tmp_path, environment=as_user(dev, lost))
        not_so = await dev.run("user", "add", "admin", "--sign", "service.web")
        still = await run("roots", "get", cwd=tmp_path, environment=as_user(dev, lost))
        added = await dev.run("user", "add", "admin")
        after = await run("roots", "get", cwd=tmp_path, environment=as_user(dev, lost))

        assert "whoever has them is admin" in dev.log
        assert (before.code, not_so.code, still.code) == (0, 2, 0), not_so
        assert "the creds of admin that were not here are shut out" in added.err
        assert after.code == 4, after
        await signed(dev, "web")


@pytest.mark.slow
async def test_a_watch_tells_each_change_of_the_roots_and_never_goes_back(tmp_path: Path) -> None:
    async with Caledger(tmp_path, no_restart=["root-manager"]) as dev:
        client = await dev.client()
        layout = provision.load(dev.data)
        root_manager = await connect(
            [f"nats://127.0.0.1:{dev.port}"],
            creds=layout.creds("root-manager"),
            ca=None,
            name="test",
        )
        subjects = client.subjects
        seen = asyncio.Queue[int]()

        async def watch() -> None:
            async for bundle in client.watch_roots():
                await seen.put(json.loads(bundle)["LedgerSequence"])

        watching = asyncio.create_task(watch())
        try:
            first = await asyncio.wait_for(seen.get(), 10)
            bundle = json.loads(await client.roots())
            # Whoever may ask has the answer sent where the changes are heard.
            await client.nc.publish(subjects.roots_get, b"", reply=subjects.roots_changed)
            dev.kill("root-manager", signal.SIGTERM)  # who would put the stream right meanwhile
            await dev.until(
                lambda: "root-manager" not in dev.pids(), 10, "the root-manager does not stop"
            )
            for sequence in (first + 100, first + 200):  # the root-manager's rights are needed
                changed = json.dumps({**bundle, "LedgerSequence": sequence}).encode()
                await root_manager.publish(subjects.roots_log, changed)
                assert await asyncio.wait_for(seen.get(), 10) == sequence
            # One of before, stored after: nobody is told.
            await root_manager.publish(subjects.roots_log, json.dumps(bundle).encode())
            await root_manager.flush()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(seen.get(), 1)
        finally:
            watching.cancel()
            await root_manager.close()


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
async def test_what_is_killed_is_started_again_and_serves(tmp_path: Path, program: str) -> None:
    async with Caledger(tmp_path) as dev:
        await signed(dev, "before")
        killed = dev.kill(program)
        during = await dev.run("sign", "service", "during", "--timeout", "20")
        await dev.restarted(program, instead_of=killed)
        await signed(dev, "after", "--timeout", "20")
        verified = await dev.run("ledger", "verify")

        assert during.code == 0, f"{during}\n{dev.log[-4000:]}"
        assert verified.code == 0, verified
        assert f"{program}" in dev.log
        assert "was ended by SIGKILL; starting it again" in dev.log


@pytest.mark.slow
async def test_every_program_killed_at_once_comes_back(tmp_path: Path) -> None:
    async with Caledger(tmp_path) as dev:
        await signed(dev, "before")
        killed = {program: dev.kill(program) for program in PROGRAMS}
        for program, pid in killed.items():
            await dev.restarted(program, instead_of=pid)
        await signed(dev, "after", "--timeout", "30")
        verified = await dev.run("ledger", "verify")

        assert verified.code == 0, verified
        assert dev.log.count("was ended by SIGKILL; starting it again") == len(PROGRAMS)


async def test_a_program_that_cannot_start_ends_everything(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert (
        await run("init", "--data", data, "--nats-port", str(free_port()), cwd=tmp_path)
    ).code == 0
    (data / "nats" / "creds" / "replicator.creds").write_text("not a creds file")

    ran = await run(
        "dev", "--data", data, "--nats-port", str(free_port()), cwd=tmp_path, timeout=60
    )

    assert ran.code == 1, ran
    assert "gave up: replicator ended with exit code 2: it cannot start" in ran.err
    assert list((data / "run").glob("*.pid")) == []


@pytest.mark.slow
async def test_a_void_entry_stops_nothing_and_is_named_by_verify_and_replay(tmp_path: Path) -> None:
    async with Caledger(tmp_path) as dev:
        layout = provision.load(dev.data)
        client = await dev.client("auditor")
        writer = await connect(
            [f"nats://127.0.0.1:{dev.port}"],
            creds=layout.creds("root-manager"),
            ca=None,
            name="test",
        )
        try:
            stored = await writer.jetstream().publish(client.subjects.authority, b"no entry")
        finally:
            await writer.close()
        void = stored.seq
        await signed(dev, "web", "--timeout", "20")
        verified = await dev.run("ledger", "verify")
        as_json = await dev.run("ledger", "verify", "--json")
        replayed = await dev.run("ledger", "replay")

        assert verified.code == as_json.code == 1, verified
        faults = [line for line in verified.out.splitlines() if line.startswith("fault ")]
        assert len(faults) == 1
        assert faults[0].startswith(f"fault sequence={void} check=malformed: ")
        assert [fault["sequence"] for fault in json.loads(as_json.out)["faults"]] == [void]
        assert replayed.code == 0
        assert f"void entry sequence={void}: " in replayed.err


@pytest.mark.slow
async def test_a_node_of_a_server_elsewhere_is_made_in_two_steps_and_run_by_hand(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    port = free_port()
    init = ("init", "--data", data, "--server", f"nats://127.0.0.1:{port}")
    first = await run(*init, cwd=tmp_path)
    assert first.code == 3, first
    assert "not reachable" in first.err

    processes: list[asyncio.subprocess.Process] = []
    server = server_process.ServerProcess(
        data / "nats" / "server.conf",
        address="127.0.0.1",
        port=port,
        log=asyncio.subprocess.DEVNULL,
    )
    try:
        await server.start()
        second = await run(*init, cwd=tmp_path)
        assert second.code == 0, second
        for worker in ("leader-elector", "root-manager", "replicator", "signer"):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "services.cli", "run", worker),
                *("--config", str(data / "caledger.toml"), "--log-format", "json"),
                stderr=asyncio.subprocess.PIPE,
            )
            processes.append(process)
        ran = await run(
            *("sign", "service", "web", "--timeout", "30", "--data", data), cwd=tmp_path
        )
        assert ran.code == 0, ran
        for process in reversed(processes):
            process.terminate()
            _, err = await asyncio.wait_for(process.communicate(), 20)
            assert process.returncode == 0, err.decode()
            told = [json.loads(line) for line in err.splitlines()]
            assert {"event", "level", "timestamp", "worker", "slot"} <= set(told[0])
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
        await server.stop()


def test_the_fixture_names_every_worker() -> None:
    assert PROGRAMS[1:] == WORKERS
