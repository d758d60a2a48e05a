"""Who may do what, tried on a real server: every attack for real, and what each user is for."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from events.subjects import partition_of
from services import transport
from services.keys.kek import KeyEncryptionKey
from services.nats_access import jwt, provision, revocation, users
from services.nats_access.permissions import (
    CLAIMS_UPDATE,
    GRANTED_BYTES_MAX,
    WORKERS,
    BadGrantError,
    Role,
    permissions,
    sign_subjects,
    streams_of,
)
from services.nats_access.seeds import WrongKeyError
from tests.access import CLOCK, DATACENTER, KEK, AccessServer, access_server

SIGN_WEB = "ca.dc1.sign.service.web"
SUBMIT_WEB = "ca.dc1.submit.service.web"


@pytest.fixture
async def access() -> AsyncIterator[AccessServer]:
    async with access_server() as server:
        yield server


# --- what the tests work with ---------------------------------------------------------------


class Counting:
    """What stands in for a worker that answers whatever it hears, as a careless one would."""

    def __init__(self, nc: Client, answer: bytes) -> None:
        self.nc = nc
        self.answer = answer
        self.heard: asyncio.Queue[Msg] = asyncio.Queue()

    async def listen(self, *subjects: str) -> None:
        for subject in subjects:
            await self.nc.subscribe(subject, cb=self._hear)
        await self.nc.flush()

    async def _hear(self, message: Msg) -> None:
        if message.reply:
            await message.respond(self.answer)
            await self.nc.flush()  # the server has the answer by the time that we say so
        await self.heard.put(message)

    async def next(self) -> Msg:
        return await asyncio.wait_for(self.heard.get(), 5)


async def careless_signer(access: AccessServer) -> Counting:
    signer = Counting(await access.connect("signer"), b"a certificate")
    await signer.listen(access.subjects.work_all)
    return signer


async def careless_root_manager(access: AccessServer) -> Counting:
    root_manager = Counting(await access.connect("root-manager"), b"the roots")
    await root_manager.listen(access.subjects.roots_get)
    return root_manager


async def last_sequences(access: AccessServer, init: Client) -> dict[str, int]:
    found = {}
    for stream in streams_of(access.subjects):
        reply = await init.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=5)
        found[stream] = json.loads(reply.data)["state"]["last_seq"]
    return found


async def write_one_everywhere(access: AccessServer) -> None:
    """Append one message to every stream, as those who may; what was on its way is in before it."""
    subjects = access.subjects
    root_manager = await access.connect("root-manager")
    leader_elector = await access.connect("leader-elector")
    for nc, subject in (
        (root_manager, subjects.authority),
        (root_manager, subjects.roots_log),
        (root_manager, subjects.key(subjects.root_keys_bucket, "sentinel")),
        (root_manager, subjects.key(subjects.signing_keys_bucket, "sentinel")),
        (leader_elector, subjects.key(subjects.lease_bucket, subjects.leader_lease())),
        (await access.connect("admin"), subjects.submit("service", "sentinel")),
    ):
        reply = json.loads((await nc.request(subject, b"x", timeout=5)).data)
        assert "seq" in reply, reply


@asynccontextmanager
async def unharmed(
    access: AccessServer, *, leaves: int = 0, submissions: int = 0
) -> AsyncIterator[None]:
    """Show that meanwhile nothing was written but so many entries of a signer's, and requests."""
    init = await access.connect("init")
    before = await last_sequences(access, init)
    yield
    await write_one_everywhere(access)
    expected = {stream: sequence + 1 for stream, sequence in before.items()}
    expected[access.subjects.ledger_stream] += leaves
    expected[access.subjects.submit_stream] += submissions
    assert await last_sequences(access, init) == expected


def targets(access: AccessServer) -> list[str]:
    """Return what an attacker would like an answer to land on."""
    subjects = access.subjects
    return [
        subjects.authority,
        subjects.grant("s1"),
        subjects.roots_log,
        subjects.key(subjects.root_keys_bucket, "root"),
        subjects.key(subjects.signing_keys_bucket, "key"),
        subjects.key(subjects.lease_bucket, subjects.leader_lease()),
        "ca.dc1.submitted.50.service.web",
        f"$JS.API.STREAM.DELETE.{subjects.ledger_stream}",
        f"$JS.API.STREAM.MSG.DELETE.{subjects.ledger_stream}",
        f"$JS.API.STREAM.PURGE.{subjects.stream_of_bucket(subjects.root_keys_bucket)}",
    ]


async def refusal(nc: Client, refused: list[str], subject: str, **options: Any) -> None:
    """Publish, and see it refused."""
    refused.clear()
    await nc.publish(subject, b"x", **options)
    await nc.flush()
    assert len(refused) == 1, subject


async def refusal_to_hear(nc: Client, refused: list[str], subject: str) -> None:
    refused.clear()
    await nc.subscribe(subject)
    await nc.flush()
    assert refused == [subject]


def headers(message: Msg) -> dict[str, str]:
    return message.headers or {}


async def batch(nc: Client, subject: str, query: dict[str, Any]) -> list[Msg]:
    """Read by direct get, as an auditor does."""
    subscription = await nc.subscribe(inbox := nc.new_inbox())
    await nc.publish(subject, json.dumps(query).encode(), reply=inbox)
    found = []
    while "Status" not in headers(message := await subscription.next_msg(timeout=5)):
        found.append(message)
    await subscription.unsubscribe()
    return found


# --- what each role may not do --------------------------------------------------------------


def concrete(subject: str) -> str:
    return subject.replace("*", "some").replace(">", "some.thing")


def matches(pattern: str, subject: str) -> bool:
    asked = pattern.split(".")
    given = subject.split(".")
    for i, token in enumerate(asked):
        if token == ">":
            return len(given) > i
        if i >= len(given) or token not in ("*", given[i]):
            return False
    return len(asked) == len(given)


def everything_published(access: AccessServer) -> Iterable[str]:
    """Every subject that anyone may publish on, and those that nobody may."""
    subjects = access.subjects
    for role in Role:
        for subject in permissions(role, subjects, user="other", sign=["service.db"]).publish:
            yield concrete(subject)
    for stream in streams_of(subjects):
        for verb in ("DELETE", "PURGE", "MSG.DELETE", "SNAPSHOT", "RESTORE", "LEADER.STEPDOWN"):
            yield f"$JS.API.STREAM.{verb}.{stream}"
        yield f"$JS.API.CONSUMER.CREATE.{stream}"
        yield f"$JS.API.CONSUMER.CREATE.{stream}.c"
        yield f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.c"
        yield f"$JS.API.CONSUMER.MSG.NEXT.{stream}.c"
    yield from ("$JS.API.STREAM.CREATE.EVIL", "$JS.API.STREAM.NAMES", "$JS.API.INFO")
    yield from (subjects.live_authority, subjects.roots_changed, "ca.dc1.work.1.service.web")
    yield from ("ca.dc1.submitted.1.service.web", f"$JS.ACK.{subjects.submit_stream}.c.1.1.1.1.1")
    yield from ("$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.PING.CONNZ", "anything")


def everything_heard(access: AccessServer) -> Iterable[str]:
    for role in Role:
        yield from permissions(role, access.subjects, user="other").subscribe
    yield from (
        ">",
        "_INBOX.>",
        "_R_.>",
        "ca.>",
        "$JS.>",
        "$KV.>",
        "$SYS.>",
        access.subjects.ledger,
        access.subjects.submit_all,
        access.subjects.submitted_all,
    )
    yield from (access.subjects.authority, access.subjects.roots_log, "_INBOX.*.*")


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
async def test_a_role_is_refused_all_that_is_not_on_its_list(
    access: AccessServer, role: Role
) -> None:
    refused: list[str] = []
    user = "web" if role is Role.CLIENT else role.value
    if role is Role.CLIENT:
        access.add_user(user, ["service.web"])
    nc = await access.connect(user, refused)
    allowed = permissions(role, access.subjects, user=user, sign=["service.web"])
    tried = 0

    for subject in dict.fromkeys(everything_published(access)):
        checked = access.subjects.carried(subject) if role in WORKERS else subject
        if not any(matches(pattern, checked) for pattern in allowed.publish):
            await refusal(nc, refused, subject)
            tried += 1
    for subject in dict.fromkeys(everything_heard(access)):
        if not any(matches(pattern, subject) for pattern in allowed.subscribe):
            await refusal_to_hear(nc, refused, subject)
            tried += 1

    assert tried > 60


async def test_a_signer_cannot_write_authority_nor_a_grant_nor_a_key_nor_the_roots(
    access: AccessServer,
) -> None:
    refused: list[str] = []
    signer = await access.connect("signer", refused)

    async with unharmed(access):
        for target in targets(access):
            await refusal(signer, refused, target)


@pytest.mark.parametrize("role", ["signer", "replicator"])
async def test_a_worker_that_reads_cannot_write_through_the_answers_of_jetstream(
    access: AccessServer, role: str
) -> None:
    """Within account CA it could: a stored message, or an acknowledgement, lands anywhere."""
    subjects = access.subjects
    signer = await access.connect("signer")
    stored = json.loads((await signer.request(subjects.leaves("s1"), b"[forged]", timeout=5)).data)
    nc = await access.connect(role)
    questions = [
        (f"$JS.API.DIRECT.GET.{subjects.ledger_stream}", {"seq": stored["seq"]}),
        (f"$JS.API.STREAM.MSG.GET.{subjects.ledger_stream}", {"seq": stored["seq"]}),
        (f"$JS.API.STREAM.INFO.{subjects.ledger_stream}", {}),
        (subjects.varz, {}),
    ]

    async with unharmed(access):
        for target in targets(access):
            for subject, question in questions:
                await nc.publish(subject, json.dumps(question).encode(), reply=target)
        await nc.request(f"$JS.API.STREAM.INFO.{subjects.ledger_stream}", b"", timeout=5)


async def test_a_signer_cannot_write_elsewhere_through_the_acknowledgement_of_an_append(
    access: AccessServer,
) -> None:
    subjects = access.subjects
    signer = await access.connect("signer")

    async with unharmed(access, leaves=len(targets(access)) + 1):
        for target in targets(access):
            await signer.publish(subjects.leaves("s1"), b"x", reply=target)
        await signer.request(subjects.leaves("s1"), b"x", timeout=5)


async def test_a_client_may_sign_its_own_name_and_no_other(access: AccessServer) -> None:
    signer = await careless_signer(access)
    refused: list[str] = []
    web = await access.client("web", "service.web", refused=refused)

    assert (await web.request(SIGN_WEB, b"csr", timeout=5)).data == b"a certificate"
    assert (await signer.next()).subject.endswith(".service.web")
    for subject in (
        "ca.dc1.sign.service.db",
        "ca.dc1.sign.service.web.db",
        "ca.dc1.sign.agent.web",
        "ca.dc1.sign.server",
        "ca.dc1.work.1.service.db",
    ):
        await refusal(web, refused, subject)
    assert signer.heard.empty()


async def test_a_client_of_every_name_may_sign_any(access: AccessServer) -> None:
    await careless_signer(access)
    mesh = await access.client("mesh", "service.*")

    for name in ("web", "db"):
        assert (await mesh.request(f"ca.dc1.sign.service.{name}", b"csr", timeout=5)).data


async def test_a_name_that_is_no_token_is_granted_as_it_is_asked_for(access: AccessServer) -> None:
    signer = await careless_signer(access)
    odd = await access.client("odd", "service.a%2Eb%20%2A")

    await odd.request("ca.dc1.sign.service.a%2Eb%20%2A", b"csr", timeout=5)

    heard = access.subjects.parse_work((await signer.next()).subject)
    assert (heard.kind, heard.name) == ("service", "a.b *")


async def test_a_client_cannot_read_the_ledger(access: AccessServer) -> None:
    subjects = access.subjects
    refused: list[str] = []
    web = await access.client("web", "service.web", refused=refused)

    for subject in (
        subjects.audit_read,
        f"$JS.API.DIRECT.GET.{subjects.ledger_stream}",
        f"$JS.API.STREAM.MSG.GET.{subjects.ledger_stream}",
        f"$JS.{DATACENTER}.API.DIRECT.GET.{subjects.ledger_stream}",
    ):
        await refusal(web, refused, subject)
    for subject in (subjects.ledger, subjects.live, subjects.authority):
        await refusal_to_hear(web, refused, subject)


async def test_a_client_cannot_write_an_event(access: AccessServer) -> None:
    refused: list[str] = []
    web = await access.client("web", "service.web", refused=refused)

    async with unharmed(access):
        for target in [*targets(access), access.subjects.leaves("s1")]:
            await refusal(web, refused, target)


async def test_a_client_can_overhear_neither_answers_nor_requests(access: AccessServer) -> None:
    refused: list[str] = []
    eve = await access.client("eve", "service.eve", refused=refused)
    for subject in (
        "_INBOX.>",
        "_INBOX.*.>",
        "_INBOX.web.>",
        "_R_.>",
        SIGN_WEB,
        "ca.dc1.sign.>",
        "ca.dc1.work.>",
        ">",
    ):
        await refusal_to_hear(eve, refused, subject)


async def test_nobody_outside_the_account_of_the_streams_reaches_jetstreams_api(
    access: AccessServer,
) -> None:
    stream = access.subjects.ledger_stream
    access.add_user("web", ["service.web"])
    for user in ("web", "auditor", "admin"):
        refused: list[str] = []
        nc = await access.connect(user, refused)
        for verb in ("INFO", "CREATE", "UPDATE", "DELETE", "PURGE", "MSG.GET", "MSG.DELETE"):
            await refusal(nc, refused, f"$JS.API.STREAM.{verb}.{stream}")
        await refusal(nc, refused, f"$JS.API.CONSUMER.CREATE.{stream}.c.>")
        await refusal(nc, refused, "$JS.API.INFO")


async def test_an_auditor_reads_what_is_stored_and_hears_what_is_new(access: AccessServer) -> None:
    subjects = access.subjects
    await write_one_everywhere(access)
    auditor = await access.connect("auditor")
    live = await auditor.subscribe(subjects.live)
    await auditor.flush()
    await write_one_everywhere(access)

    stored = await batch(
        auditor, subjects.audit_read, {"seq": 1, "next_by_subj": subjects.ledger, "batch": 10}
    )
    roots = await batch(
        auditor, subjects.roots_read, {"seq": 1, "next_by_subj": subjects.roots_log, "batch": 10}
    )

    assert [headers(message)["Nats-Sequence"] for message in stored] == ["1", "2"]
    assert len(roots) == 2
    assert (await live.next_msg(timeout=5)).subject == subjects.live_authority


async def test_an_auditor_can_only_read(access: AccessServer) -> None:
    refused: list[str] = []
    auditor = await access.connect("auditor", refused)

    async with unharmed(access):
        for target in [*targets(access), SIGN_WEB, access.subjects.leaves("s1")]:
            await refusal(auditor, refused, target)


async def test_an_auditor_cannot_write_through_the_answers_of_what_it_reads(
    access: AccessServer,
) -> None:
    subjects = access.subjects
    await write_one_everywhere(access)
    auditor = await access.connect("auditor")

    async with unharmed(access):
        for target in targets(access):
            await auditor.publish(subjects.audit_read, b'{"seq":1}', reply=target)
            await auditor.publish(subjects.roots_read, b'{"seq":1}', reply=target)
        assert await batch(auditor, subjects.audit_read, {"seq": 1, "batch": 1})


# --- through what others send ---------------------------------------------------------------


async def test_a_forged_reply_subject_makes_no_worker_write(access: AccessServer) -> None:
    signer = await careless_signer(access)
    root_manager = await careless_root_manager(access)
    web = await access.client("web", "service.web")

    async with unharmed(access):
        for target in targets(access):
            await web.publish(SIGN_WEB, b"csr", reply=target)
            await web.publish(access.subjects.roots_get, b"", reply=target)
        for _ in targets(access):
            assert (await signer.next()).reply.startswith("_R_.")
            assert (await root_manager.next()).reply.startswith("_R_.")


async def test_a_forged_reply_subject_asks_for_no_other_name(access: AccessServer) -> None:
    """The roots that a client has sent to a signing subject are nobody's request."""
    signer = await careless_signer(access)
    root_manager = await careless_root_manager(access)
    web = await access.client("web", "service.web")

    await web.publish(access.subjects.roots_get, b"", reply="ca.dc1.sign.service.db")
    await root_manager.next()
    await web.request(SIGN_WEB, b"csr", timeout=5)

    assert (await signer.next()).subject.endswith(".service.web")


async def test_a_deliver_subject_cannot_be_named_by_anyone(access: AccessServer) -> None:
    access.add_user("web", ["service.web"])
    stream = access.subjects.ledger_stream
    push = {"deliver_subject": access.subjects.authority, "ack_policy": "none"}
    consumer = json.dumps({"stream_name": stream, "config": push}).encode()
    await write_one_everywhere(access)

    async with unharmed(access):
        for role in Role:
            user = "web" if role is Role.CLIENT else role.value
            refused: list[str] = []
            nc = await access.connect(user, refused)
            for subject in (f"CREATE.{stream}", f"CREATE.{stream}.c", f"DURABLE.CREATE.{stream}.c"):
                await nc.publish(f"$JS.API.CONSUMER.{subject}", consumer)
                await nc.flush()
            assert len(refused) == 3, user


@pytest.mark.parametrize("only", [{}, {"Nats-Trace-Only": "true"}])
async def test_a_trace_header_writes_nothing(access: AccessServer, only: dict[str, str]) -> None:
    """Of a message whose trace may not go where it is to go, nothing is delivered at all."""
    signer = await careless_signer(access)
    refused: list[str] = []
    worker = await access.connect("signer", refused)
    web = await access.client("web", "service.web", refused=refused)

    async with unharmed(access):
        for target in targets(access):
            header = {"Nats-Trace-Dest": target, **only}
            await refusal(web, refused, SIGN_WEB, headers=header)
            await refusal(worker, refused, access.subjects.leaves("s1"), headers=header)
        await web.request(SIGN_WEB, b"csr", timeout=5)

    await signer.next()
    assert signer.heard.empty()


async def test_who_asks_is_told_by_the_server_whatever_the_asker_writes(
    access: AccessServer,
) -> None:
    signer = await careless_signer(access)
    web = await access.client("web", "service.web")
    forged = {"Nats-Request-Info": '{"user":"forged","name":"admin"}'}

    await web.request(SIGN_WEB, b"csr", timeout=5, headers=forged)

    told = json.loads(headers(await signer.next())["Nats-Request-Info"])
    assert told["user"] == jwt.read_creds(access.creds("web")).sub


# --- durable requests


async def submitted(access: AccessServer) -> list[tuple[str, bytes]]:
    """Return what the queue holds, as a signer reads it."""
    signer = await access.connect("signer")
    found = []
    subject = f"$JS.API.STREAM.MSG.GET.{access.subjects.submit_stream}"
    query = {"seq": 1, "next_by_subj": access.subjects.submitted_all}
    while "message" in (
        told := json.loads((await signer.request(subject, json.dumps(query).encode())).data)
    ):
        message = told["message"]
        found.append((message["subject"], base64.b64decode(message["data"])))
        query["seq"] = message["seq"] + 1
    return found


async def test_a_client_submits_its_own_name_and_it_is_stored_in_its_partition(
    access: AccessServer,
) -> None:
    refused: list[str] = []
    web = await access.client("web", "service.web", refused=refused)
    forged = {"Nats-Request-Info": '{"user":"forged"}'}

    acknowledged = json.loads((await web.request(SUBMIT_WEB, b"csr", headers=forged)).data)

    assert acknowledged["stream"] == access.subjects.submit_stream
    partition = partition_of("service", "web")
    assert await submitted(access) == [(f"ca.dc1.submitted.{partition}.service.web", b"csr")]
    for subject in (
        "ca.dc1.submit.service.db",
        "ca.dc1.submit.service.web.db",
        "ca.dc1.submit.agent.web",
        "ca.dc1.submitted.1.service.web",
        "ca.dc1.submitted.1.service.db",
    ):
        await refusal(web, refused, subject)
    assert len(await submitted(access)) == 1


async def test_a_durable_request_that_no_mapping_takes_is_told_at_once(
    access: AccessServer,
) -> None:
    admin = await access.connect("admin")

    with pytest.raises(NoRespondersError):
        await admin.request("ca.dc1.submit.service.web.db", b"csr", timeout=5)


async def test_a_submission_of_a_client_writes_nothing_else_whatever_it_names(
    access: AccessServer,
) -> None:
    """Neither by its reply subject, on which JetStream answers, nor by a header of JetStream's."""
    web = await access.client("web", "service.web")
    headers = [
        {"Nats-Rollup": "all"},
        {"Nats-Rollup": "sub"},
        {"Nats-TTL": "1s"},
        {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"},
        {"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": "x"},
        {"Nats-Incr": "+1"},
        {"Nats-Stream-Source": "CA_LEDGER_dc1 1 x x x"},
        {"Nats-Expected-Stream": "CA_LEDGER_dc1"},
    ]
    kept = json.loads((await web.request(SUBMIT_WEB, b"first", timeout=5)).data)
    before = len(targets(access))

    async with unharmed(access, submissions=before + 1):
        for target in targets(access):
            await web.publish(SUBMIT_WEB, b"reply", reply=target)
        await web.request(SUBMIT_WEB, b"last", timeout=5)
    for header in headers:
        await web.request(SUBMIT_WEB, b"header", headers=header, timeout=5)

    bodies = [body for _, body in await submitted(access)]
    assert kept["seq"] == 1
    assert [body for body in bodies if body not in (b"x", b"header")] == [
        b"first",
        *[b"reply"] * before,
        b"last",
    ]


async def test_a_forged_reply_subject_submits_nothing_in_another_name(access: AccessServer) -> None:
    """Whatever is answered to a client, a service of its account does not hear it."""
    subjects = access.subjects
    await careless_signer(access)
    await careless_root_manager(access)
    await write_one_everywhere(access)
    web = await access.client("web", "service.web")
    auditor = await access.connect("auditor")
    before = len(await submitted(access))

    for target in ("ca.dc1.submit.service.db", "ca.dc1.submitted.1.service.db"):
        for subject in (SIGN_WEB, SUBMIT_WEB, subjects.roots_get):
            await web.publish(subject, b"x", reply=target)
        for subject in (subjects.audit_read, subjects.roots_read):
            await auditor.publish(subject, b'{"seq": 1}', reply=target)
    await web.request(SUBMIT_WEB, b"last", timeout=5)
    await auditor.request(subjects.audit_read, b'{"seq": 1}', timeout=5)
    await asyncio.sleep(0.2)

    found = (await submitted(access))[before:]
    assert [body for _, body in found] == [b"x", b"x", b"last"]
    assert {subject.rpartition(".")[2] for subject, _ in found} == {"web"}


async def test_only_a_signer_removes_durable_requests_and_only_those(access: AccessServer) -> None:
    subjects = access.subjects
    web = await access.client("web", "service.web")
    await web.request(SUBMIT_WEB, b"csr", timeout=5)
    body = b'{"seq": 1}'
    for user in ("web", "auditor", "admin", "replicator", "root-manager", "leader-elector", "init"):
        refused: list[str] = []
        nc = await access.connect(user, refused)
        await refusal(nc, refused, f"$JS.API.STREAM.MSG.DELETE.{subjects.submit_stream}")
        if user not in ("root-manager", "leader-elector", "init"):
            for subject in ("ca.dc1.js.", "$JS.API."):
                await refusal(nc, refused, f"{subject}STREAM.MSG.DELETE.{subjects.submit_stream}")
    refused = []
    signer = await access.connect("signer", refused)
    for stream in streams_of(subjects):
        if stream != subjects.submit_stream:
            await refusal(signer, refused, f"$JS.API.STREAM.MSG.DELETE.{stream}")
    await refusal(signer, refused, f"$JS.API.STREAM.PURGE.{subjects.submit_stream}")
    assert len(await submitted(access)) == 1

    removal = f"$JS.API.STREAM.MSG.DELETE.{subjects.submit_stream}"
    assert json.loads((await signer.request(removal, body, timeout=5)).data)["success"]
    assert await submitted(access) == []


async def test_a_signer_cannot_write_elsewhere_through_the_queue(access: AccessServer) -> None:
    """What is answered to its reading and removing stays in the account that it asks from."""
    subjects = access.subjects
    web = await access.client("web", "service.web")
    await web.request(SUBMIT_WEB, b"[forged]", timeout=5)
    signer = await access.connect("signer")

    async with unharmed(access):
        for target in targets(access):
            for verb in ("MSG.GET", "MSG.DELETE"):
                subject = f"$JS.API.STREAM.{verb}.{subjects.submit_stream}"
                await signer.publish(subject, b'{"seq": 1}', reply=target)
        await signer.request(f"$JS.API.STREAM.INFO.{subjects.submit_stream}", b"", timeout=5)


async def test_a_user_who_may_be_as_much_as_one_token_tells_can_connect(
    access: AccessServer,
) -> None:
    """A token is shown in one line, of which nats-server's default takes 4 KiB."""
    names = [f"service.name-{number:04}" for number in range(1_000)]
    asked = [sum(map(len, sign_subjects(access.subjects, name))) for name in names]
    most = next(n for n in range(len(names)) if sum(asked[: n + 1]) > GRANTED_BYTES_MAX)

    nc = await access.client("many", *names[:most])

    await nc.flush()
    assert nc.is_connected
    with pytest.raises(BadGrantError, match="make several users"):
        access.add_user("more", names[: most + 1])


async def test_who_asks_for_the_roots_is_known_too(access: AccessServer) -> None:
    root_manager = await careless_root_manager(access)
    web = await access.client("web", "service.web")

    assert (await web.request(access.subjects.roots_get, b"", timeout=5)).data == b"the roots"

    told = json.loads(headers(await root_manager.next())["Nats-Request-Info"])
    assert told["user"] == jwt.read_creds(access.creds("web")).sub


async def test_every_root_manager_answers_what_the_status_is(access: AccessServer) -> None:
    subject = access.subjects.status_get
    managers = [Counting(await access.connect("root-manager"), b"%d" % n) for n in range(3)]
    for manager in managers:
        await manager.listen(subject)

    for user in ("admin", "auditor"):
        nc = await access.connect(user)
        inbox = nc.new_inbox()
        answers: asyncio.Queue[Msg] = asyncio.Queue()
        await nc.subscribe(inbox, cb=answers.put)
        await nc.publish(subject, b"", reply=inbox)
        async with asyncio.timeout(5):
            assert {(await answers.get()).data for _ in managers} == {b"0", b"1", b"2"}


async def test_a_request_that_no_signer_hears_is_answered_at_once(access: AccessServer) -> None:
    web = await access.client("web", "service.web")

    with pytest.raises(NoRespondersError):
        await web.request(SIGN_WEB, b"csr", timeout=5)


# --- users come and go ----------------------------------------------------------------------


async def closed(nc: Client) -> None:
    async with asyncio.timeout(5):
        while not nc.is_closed:
            await asyncio.sleep(0.01)


async def test_a_user_that_is_added_can_connect_at_once(access: AccessServer) -> None:
    await careless_signer(access)
    pid = access.process.pid

    web = await access.client("web", "service.web")

    assert (await web.request(SIGN_WEB, b"csr", timeout=5)).data == b"a certificate"
    assert access.process.pid == pid


async def test_a_revoked_user_is_cut_off_at_once_and_for_ever(access: AccessServer) -> None:
    access.add_user("shop", ["service.shop"])
    ended = asyncio.Queue[transport.TransportError]()
    await transport.connect(
        [access.url], creds=access.creds("shop"), ca=None, name="shop", on_closed=ended.put_nowait
    )
    kept = access.data / "shop.creds"
    kept.write_bytes(access.creds("shop").read_bytes())
    other = await access.client("other", "service.other")

    await access.revoke("shop")

    why = await asyncio.wait_for(ended.get(), 5)
    assert isinstance(why, transport.NotPermittedError)
    assert "revoked" in str(why)
    assert other.is_connected
    assert not access.creds("shop").exists()
    with pytest.raises(transport.NotPermittedError):
        await transport.connect([access.url], creds=kept, ca=None, name="shop")
    await access.restart()
    with pytest.raises(transport.NotPermittedError):
        await transport.connect([access.url], creds=kept, ca=None, name="shop")
    await other.flush()


async def test_a_user_that_was_revoked_can_be_added_anew(access: AccessServer) -> None:
    first = await access.client("shop", "service.shop")
    await access.revoke("shop")
    await closed(first)

    second = await access.client("shop", "service.shop")

    assert second.is_connected
    await access.revoke("shop")
    await closed(second)


@pytest.mark.parametrize("name", ["admin", "auditor"])
async def test_a_first_user_that_was_revoked_is_made_again_by_nothing_but_adding_it(
    access: AccessServer, name: str
) -> None:
    """And the key that was shut out stays so, and stays in the register with its time."""
    kept = access.data / "kept.creds"
    kept.write_bytes(access.creds(name).read_bytes())
    first = await access.connect(name)
    await access.revoke(name)
    await closed(first)

    for in_use in (False, True):
        provision.provision(access.data, DATACENTER, KEK, in_use=in_use)
        assert not access.creds(name).exists()
    with pytest.raises(users.UserError, match="--sign"):
        access.add_user(name, ["service.web"])
    access.add_user(name, [])

    second = await access.connect(name)
    assert (await second.request(access.subjects.audit_read, b'{"seq": 1}', timeout=5)).headers
    with pytest.raises(transport.NotPermittedError):
        await transport.connect([access.url], creds=kept, ca=None, name=name)
    entry = users.find(access.layout, name)
    assert entry is not None
    assert (entry.role, entry.revoked) == (name, None)
    assert [revocation.key for revocation in entry.revocations] == [jwt.read_creds(kept).sub]
    assert entry.keys[-1] == jwt.read_creds(access.creds(name)).sub
    await access.revoke(name)
    again = users.find(access.layout, name)
    assert again is not None
    assert again.revocations[0] == entry.revocations[0]
    assert [revocation.key for revocation in again.revocations] == list(again.keys)


async def test_revoking_one_user_leaves_those_revoked_before_shut_out(access: AccessServer) -> None:
    kept = access.data / "a.creds"
    access.add_user("a", ["service.a"])
    kept.write_bytes(access.creds("a").read_bytes())
    access.add_user("b", ["service.b"])

    await access.revoke("a")
    await access.revoke("b")

    with pytest.raises(transport.NotPermittedError):
        await transport.connect([access.url], creds=kept, ca=None, name="a")


async def test_a_user_revoked_while_no_server_runs_is_shut_out_when_one_starts(
    access: AccessServer,
) -> None:
    kept = access.data / "shop.creds"
    access.add_user("shop", ["service.shop"])
    kept.write_bytes(access.creds("shop").read_bytes())
    await access.process.stop()

    with pytest.raises(transport.UnreachableError):
        await access.revoke("shop")

    await access.process.start()
    with pytest.raises(transport.NotPermittedError):
        await transport.connect([access.url], creds=kept, ca=None, name="shop")
    await access.revoke("shop")
    [shop] = [user for user in users.list_users(access.layout) if user.name == "shop"]
    assert shop.revoked is not None


class EarlierClock:
    def now(self) -> datetime:
        return CLOCK.now() - timedelta(hours=1)


async def test_credentials_that_have_expired_are_refused(access: AccessServer) -> None:
    users.add_user(
        access.layout,
        "shop",
        sign=["service.shop"],
        expires=timedelta(minutes=30),
        url=access.url,
        ca=access.ca,
        kek=KEK,
        clock=EarlierClock(),
    )

    with pytest.raises(transport.NotPermittedError):
        await access.connect("shop")


async def test_credentials_that_expire_end_the_connection(access: AccessServer) -> None:
    access.add_user("shop", ["service.shop"], expires=timedelta(seconds=2))
    shop = await access.connect("shop")

    await closed(shop)


async def test_the_user_that_pushes_claims_may_do_nothing_else(access: AccessServer) -> None:
    refused: list[str] = []
    sys = await access.connect("sys", refused)

    for subject in ("$SYS.REQ.SERVER.PING", "$SYS.REQ.CLAIMS.DELETE", "$SYS.REQ.CLAIMS.PACK"):
        await refusal(sys, refused, subject)


async def test_a_token_that_the_operator_did_not_sign_is_not_taken(access: AccessServer) -> None:
    """The user that pushes claims cannot make an account of its own."""
    sys = await access.connect("sys")
    token = access.layout.token("clients").read_text()
    head, claims, _ = token.split(".")

    reply = await sys.request(CLAIMS_UPDATE, f"{head}.{claims}.{'A' * 86}".encode(), timeout=5)

    assert b"error" in reply.data


async def test_revoking_with_the_wrong_key_changes_nothing(access: AccessServer) -> None:
    shop = await access.client("shop", "service.shop")
    before = access.layout.token("clients").read_bytes()

    with pytest.raises(WrongKeyError):
        await revocation.revoke_user(
            access.layout,
            "shop",
            kek=KeyEncryptionKey(bytes(32)),
            servers=[access.url],
            ca=None,
            clock=CLOCK,
        )

    await shop.flush()
    assert access.layout.token("clients").read_bytes() == before


async def test_a_server_that_starts_with_the_tokens_of_before_still_knows_who_was_revoked(
    access: AccessServer,
) -> None:
    """Another server of a cluster has them from when it was set up: the newer token holds."""
    kept = access.data / "shop.creds"
    access.add_user("shop", ["service.shop"])
    kept.write_bytes(access.creds("shop").read_bytes())
    before = access.layout.accounts_conf.read_bytes()
    await access.revoke("shop")
    assert access.layout.accounts_conf.read_bytes() != before

    access.layout.accounts_conf.write_bytes(before)
    await access.restart()

    with pytest.raises(transport.NotPermittedError):
        await transport.connect([access.url], creds=kept, ca=None, name="shop")
