"""Commands over a real server: heard, carried out once, answered. The CA is in virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import MaxPayloadError

from events.authority import CAConfigured, RotationStarted
from events.base import Event
from services.root_manager.hearing import QUEUED_MAX, REPLIES_MAX, Hearing
from services.root_manager.questions import Questions
from tests.nats import NatsServer
from tests.unit.services.root_manager.keys import KeysInMemory
from tests.virtual import SUBJECTS, Datacenter, run

BODY = 256 * 1024


class Heard:
    """A CA manager that hears commands; it carries them out when the test says so."""

    def __init__(self, dc: Datacenter, manager: Client, asker: Client) -> None:
        self.dc = dc
        self.asker = asker
        self.woken = 0
        self._manager = manager
        self._questions = Questions(manager, SUBJECTS)

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[Self]:
        async with NatsServer(folder) as server, Datacenter.open(folder) as dc:
            await dc.signers(run(1))
            heard = cls(dc, await server.client(), await server.client())
            await heard.listen()
            yield heard

    async def listen(self) -> None:
        """Hear commands for whoever leads now."""
        self.hearing = Hearing(
            self._manager, self.dc.administration, wake=self._wake, show=self._show
        )
        await self.hearing.listen()
        await self._manager.flush()

    async def ask(
        self, subject: str, body: bytes | dict[str, Any] = b"", *, times: int = 1
    ) -> list[Msg]:
        """Send a command so many times; the list fills with what is answered."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        answers: list[Msg] = []

        async def take(message: Msg) -> None:
            answers.append(message)

        for _ in range(times):
            await self.asker.subscribe(inbox := self.asker.new_inbox(), cb=take)
            await self.asker.publish(subject, data, reply=inbox)
        return answers

    async def carry_out(self) -> None:
        """Let the leader carry out what was sent so far."""
        await self.settle()
        await self.dc.replicate()
        await self.hearing.carry_out(self.dc.turn)
        await self.settle()

    async def settle(self) -> None:
        """Return once everything that was sent so far has arrived."""
        for nc in (self.asker, self._manager, self.asker):
            await nc.flush()
            await asyncio.sleep(0.01)  # callbacks are tasks of their own

    async def told(self, subject: str, body: bytes | dict[str, Any] = b"") -> dict[str, Any]:
        """Ask, have it carried out, and return the one answer."""
        [told] = await self.told_all([(subject, body)])
        return told

    async def told_all(
        self, asked: Sequence[tuple[str, bytes | dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """Ask all of it, have it carried out, and return the one answer to each."""
        answers = [await self.ask(subject, body) for subject, body in asked]
        await self.carry_out()
        all_told = []
        for [answer] in answers:
            told = json.loads(answer.data)
            if "error" in told:
                assert (answer.headers or {})["Nats-Service-Error-Code"] == told["error"]["code"]
            all_told.append(told)
        return all_told

    async def count(self, kind: type[Event]) -> int:
        """Return how many events of a kind the ledger holds."""
        return sum(
            isinstance(recorded.event, kind)
            for entry in await self.dc.entries()
            for recorded in entry.events
        )

    async def _show(self) -> None:
        await self._questions.show(self.dc.state)

    def _wake(self) -> None:
        self.woken += 1


@pytest.fixture
async def heard(tmp_path: Path) -> AsyncIterator[Heard]:
    async with Heard.open(tmp_path) as opened:
        yield opened


async def test_a_command_that_was_carried_out_is_not_carried_out_again(heard: Heard) -> None:
    body = {"RequestID": "r-1"}

    first = await heard.told(SUBJECTS.rotation_start, body)
    again = await heard.told(SUBJECTS.rotation_start, body)
    await heard.dc.new_leader("b")
    await heard.listen()
    of_the_next = await heard.told(SUBJECTS.rotation_start, body)

    assert [told["Outcome"] for told in (first, again, of_the_next)] == ["rotated", "done", "done"]
    assert first["RootID"] == again["RootID"] == of_the_next["RootID"]
    assert await heard.count(RotationStarted) == 1


async def test_who_is_told_that_it_is_done_is_told_so_when_he_asks(heard: Heard) -> None:
    """Nothing but the command itself has the questions answered anew here."""
    for life in ("24h", "25h"):
        done = await heard.told(SUBJECTS.config_set, {"Config": {"LeafCertTTL": life}})
        told = await heard.asker.request(SUBJECTS.config_get, timeout=5)

        assert done["Outcome"] == "configured"
        assert json.loads(told.data)["Config"]["LeafCertTTL"] == life
        assert json.loads(told.data)["ModifyIndex"] == done["ModifyIndex"]


async def test_a_hundred_that_are_the_same_are_one_while_it_waits(heard: Heard) -> None:
    answers = await heard.ask(SUBJECTS.rotation_start, times=100)
    await heard.settle()
    assert heard.woken == 1

    await heard.carry_out()

    assert await heard.count(RotationStarted) == 1
    assert len(answers) == REPLIES_MAX
    assert len({answer.data for answer in answers}) == 1


async def test_commands_that_differ_are_carried_out_in_their_order(heard: Heard) -> None:
    lives = ["2h", "3h", "4h"]
    answers = [
        await heard.ask(SUBJECTS.config_set, {"Config": {"LeafCertTTL": life}}) for life in lives
    ]

    await heard.carry_out()

    indexes = [json.loads(answer.data)["ModifyIndex"] for [answer] in answers]
    assert indexes == sorted(set(indexes))
    configuration = heard.dc.state.configuration
    assert configuration is not None
    assert configuration.config.leaf_cert_ttl_seconds == 4 * 3600


async def test_no_more_commands_wait_than_fit(heard: Heard) -> None:
    """Who is not heard gets no answer, and asks again; nobody else is forgotten for it."""
    asked = [await heard.asker.subscribe(heard.asker.new_inbox()) for _ in range(QUEUED_MAX + 9)]
    for number, subscription in enumerate(asked):
        body = json.dumps({"RootID": f"no root {number}"}).encode()
        await heard.asker.publish(SUBJECTS.roots_prune, body, reply=subscription.subject)
    await heard.settle()

    await heard.carry_out()

    answered = [subscription.pending_msgs for subscription in asked]
    assert answered == [1] * QUEUED_MAX + [0] * 9
    assert "no root 0" in json.loads((await asked[0].next_msg()).data)["error"]["message"]
    assert (await heard.told(SUBJECTS.rotation_start))["Outcome"] == "rotated"


async def test_who_does_not_lead_any_more_forgets_what_it_heard(heard: Heard) -> None:
    answers = await heard.ask(SUBJECTS.rotation_start)
    await heard.settle()
    assert heard.woken == 1

    heard.hearing.forget()
    await heard.carry_out()

    assert answers == []
    assert await heard.count(RotationStarted) == 0


async def test_a_command_whose_answer_could_land_elsewhere_is_not_heard(heard: Heard) -> None:
    """NATS lets anybody name any subject as reply."""
    for reply in ("", SUBJECTS.authority, SUBJECTS.roots_log, "$JS.API.INFO", "x._INBOX.y"):
        await heard.asker.publish(SUBJECTS.rotation_start, b"{}", reply=reply)
    await heard.settle()

    await heard.carry_out()

    assert heard.woken == 0
    assert await heard.count(RotationStarted) == 0


DEEP = b'{"Config":' * 100_000
HOSTILE: list[tuple[str, bytes, str, str]] = [
    ("not JSON", b"\xff\xfe", "malformed", ""),
    ("cut off", b'{"Config":', "malformed", ""),
    ("nothing but a quote", b'"', "malformed", ""),
    ("deep objects", DEEP[: BODY - 100], "malformed", ""),
    ("deep lists", b'{"Config":' + b"[" * (BODY - 100), "malformed", ""),
    ("too long", b'"' + b"x" * BODY + b'"', "too_large", "262144"),
    ("far too long", b" " * 1_000_000, "too_large", "262144"),
    ("no object", b"[]", "", ""),
    ("a number", b"1", "", ""),
    ("null", b"null", "", ""),
    ("an unknown key", b'{"RequestId2": "x"}', "", ""),
    ("a request id that is none", b'{"RequestID": "a b"}', "", ""),
    ("a request id of another type", b'{"RequestID": 7}', "", ""),
    ("a request id with a newline", b'{"RequestID": "a\\n"}', "", ""),
    ("an unknown key of 200 kB", b'{"%s": 1}' % (b"x" * 200_000), "", ""),
    ("a lone surrogate", b'{"RequestID": "\\ud800"}', "", ""),
]


async def test_a_hostile_command_gets_a_typed_refusal_and_leaves_no_trace(heard: Heard) -> None:
    before = await heard.dc.ledger.last_sequence()
    for subject in heard.dc.administration.subjects:
        answers = await heard.told_all([(subject, body) for _, body, _, _ in HOSTILE])
        for (what, _, code, text), told in zip(HOSTILE, answers, strict=True):
            error = told.get("error")
            assert error is not None, (subject, what)
            codes = {code} if code else {"malformed", "bad_config"}
            assert error["code"] in codes, (subject, what)
            assert text in error["message"], (subject, what)
            assert len(error["message"]) < 1000, (subject, what)
            assert error["message"].isprintable(), (subject, what)

    assert await heard.dc.ledger.last_sequence() == before


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("config_set", {"Config": {"LeafCertTTTL": "1h"}}, "did you mean 'LeafCertTTL'"),
    ("config_set", {"Confg": {}}, "did you mean 'Config'"),
    ("config_set", {"Config": []}, "Config: a JSON object was expected"),
    ("config_set", {"Config": {"LeafCertTTL": {"x": 1}}}, "LeafCertTTL: "),
    ("config_set", {"Config": {"CSRMaxPerSecond": "nan"}}, "CSRMaxPerSecond: "),
    ("config_set", {"Config": {"PrivateKeyBits": 1e400}}, ""),
    ("config_set", {"Config": {"CSRMaxPerSecond": 10**400}}, "CSRMaxPerSecond: the number is too"),
    ("config_plan", {"Config": {"LeafCertTTL": -(10**400)}}, "LeafCertTTL: the number is too"),
    ("config_plan", {"WaitSeconds": 10**400}, "WaitSeconds: the number is too large"),
    ("config_set", {"Config": {"PrivateKeyBits": "9" * 5000}}, "PrivateKeyBits: "),
    ("config_set", {"Config": {"RootCert": "x" * 10_000}}, "must provide a private key"),
    ("config_set", {"Config": {"PrivateKey": "-----BEGIN EC PRIVATE KEY-----"}}, "cannot be"),
    ("config_set", {"Config": {"SANs": {"Service": {"DNS": ["*" * 300]}}}}, "DNS: "),
    ("config_set", {"ModifyIndex": -1}, "ModifyIndex: "),
    ("config_set", {"ModifyIndex": True}, "ModifyIndex: "),
    ("config_set", {"WaitSeconds": 1e300}, "WaitSeconds: "),
    ("rotation_start", {"WaitSeconds": -1}, "$.WaitSeconds"),
    ("rotation_start", {"WaitSeconds": "1"}, "$.WaitSeconds"),
    ("rotation_start", {"waitSeconds": 1}, "unknown field `waitSeconds`"),
    ("rotation_abort", {"Reason": "x" * 1001}, "$.Reason"),
    ("roots_prune", {}, "RootID"),
    ("roots_prune", {"RootID": "x", "Force": "yes"}, "$.Force"),
    ("leaves_revoke", {"Leaves": {}}, "nothing is chosen"),
    ("leaves_revoke", {"Leaves": {"Serials": []}}, "$.Leaves.Serials"),
    ("leaves_revoke", {"Leaves": {"Identity": "x"}, "Reason": "spite"}, "$.Reason"),
]


async def test_a_command_of_wrong_values_is_told_which(heard: Heard) -> None:
    before = await heard.dc.ledger.last_sequence()

    answers = await heard.told_all([(getattr(SUBJECTS, name), body) for name, body, _ in WRONG])
    for (_, body, text), told in zip(WRONG, answers, strict=True):
        error = told["error"]
        assert error["code"] in {"malformed", "bad_config"}, body
        assert text in error["message"], (body, error)

    assert await heard.dc.ledger.last_sequence() == before


class Broken(KeysInMemory):
    """Root keys of a driver with a fault of its own."""

    async def sign(self, key_id: str, message: bytes) -> bytes:
        raise RuntimeError(f"{key_id}: not of this world")


async def test_what_nobody_expects_ends_one_command_and_no_leadership(heard: Heard) -> None:
    """It does not come again from the queue either."""
    heard.dc.root_keys = Broken("root", clock=heard.dc.clock)
    await heard.dc.new_leader("b")
    await heard.listen()

    [broken, good] = await heard.told_all(
        [(SUBJECTS.rotation_start, {}), (SUBJECTS.config_set, {"Config": {"LeafCertTTL": "9h"}})]
    )

    assert broken == {"error": {"code": "internal", "message": "internal error"}}
    assert good["Outcome"] == "configured"
    await heard.carry_out()
    assert await heard.count(RotationStarted) == 0


async def test_what_is_larger_than_a_message_never_arrives(heard: Heard) -> None:
    """10 MB of nesting: the server takes 1 MB."""
    with pytest.raises(MaxPayloadError):
        await heard.asker.publish(SUBJECTS.config_set, DEEP * 10, reply=heard.asker.new_inbox())

    assert (await heard.told(SUBJECTS.config_set, {"Config": {"LeafCertTTL": "9h"}}))["Outcome"]
    assert await heard.count(CAConfigured) == 2
