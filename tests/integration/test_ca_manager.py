"""The CA manager over a real server with its accounts: questions, commands, who may give them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from cryptography import x509
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from events.authority import CAConfigured, RootActivated, RotationStarted
from services.clock import SystemClock
from tests.external_ca import given_ca
from tests.factories import private_pem
from tests.integration.managing import Managed
from tests.verifiers import pem_chain


@pytest.fixture
async def dc() -> AsyncIterator[Managed]:
    async with Managed.open() as opened:
        yield opened


def names(told: Any) -> Iterator[str]:
    """Yield every name in a JSON value."""
    match told:
        case dict():
            yield from told
            for value in told.values():
                yield from names(value)
        case list():
            for value in told:
                yield from names(value)


async def test_h16_before_there_is_an_authority_every_question_is_answered(dc: Managed) -> None:
    """H16: Consul's configuration endpoint dereferences a row that is not there yet.

    6. Initialize_Logging: the provider's line appears in the log.
    """
    subjects = dc.subjects
    with capture_logs() as logged:
        async with dc.running("a", "b"):
            for subject in (subjects.config_get, subjects.roots_get, subjects.crl_get):
                message = await dc.message(subject)
                error = json.loads(message.data)["error"]
                assert (error["code"], error["retry_after"]) == ("not_ready", 0.25)
                assert error["message"].startswith("CA is uninitialized")
                assert (message.headers or {})["Nats-Service-Error-Code"] == "not_ready"
            assert (await dc.state()).configuration is None

            await dc.lead("a")
            await dc.initialized()
            for subject in (subjects.config_get, subjects.roots_get, subjects.crl_get):
                async with asyncio.timeout(5):
                    while "error" in (told := await dc.ask(subject)):  # the other one, for a moment
                        assert told["error"]["code"] == "not_ready"

    lines = [line for line in logged if "primary datacenter CA with provider" in line["event"]]
    assert [line["log_level"] for line in lines] == ["info"]


async def test_30_31_roots_and_configuration_as_they_are_told(dc: Managed) -> None:
    """30. Roots: all, ActiveRootID, TrustDomain = cluster ID + ".consul", never SigningCert/Key.

    31. Config get/set round-trip.
    """
    subjects = dc.subjects
    async with dc.running("a"):
        await dc.lead("a")
        await dc.initialized()
        first = await dc.ask(subjects.config_get)
        assert first["Provider"] == "consul"
        assert (first["State"], first["ForceWithoutCrossSigning"]) == (None, False)

        again = await dc.ask(subjects.config_set, first)
        assert again["Outcome"] == "nothing to change"
        changed = {**first, "Config": {**first["Config"], "LeafCertTTL": "24h"}}
        assert (await dc.ask(subjects.config_set, changed))["Outcome"] == "configured"
        second = await dc.ask(subjects.config_get)
        assert second == {**changed, "ModifyIndex": second["ModifyIndex"]}
        assert second["ModifyIndex"] > second["CreateIndex"] == first["CreateIndex"]
        stale = await dc.ask(subjects.config_set, first)  # which has the index of before
        assert stale["error"]["message"] == "ModifyIndex did not match existing"

        await dc.ask(subjects.rotation_start)
        roots = await dc.ask(subjects.roots_get)
        state = await dc.state()
        assert state.configuration is not None
        assert roots["TrustDomain"] == f"{state.configuration.cluster_id}.consul"
        assert [root["Active"] for root in roots["Roots"]] == [False, True]
        assert roots["ActiveRootID"] == roots["Roots"][1]["ID"]
        assert {root["ExternalTrustDomain"] for root in roots["Roots"]} == {
            state.configuration.cluster_id
        }
        assert {"RootCert", "SigningKeyID"} < set(names(roots))
        assert {"SigningCert", "SigningKey", "PrivateKey", "RotatedOutAt"}.isdisjoint(names(roots))
        for root in roots["Roots"]:
            [certificate] = pem_chain(root["RootCert"])
            loaded = x509.load_der_x509_certificate(certificate)
            assert root["SerialNumberHex"].replace(":", "").lstrip("0") == (
                f"{loaded.serial_number:x}"
            )


async def test_32_only_administrators_see_and_change_the_ca(dc: Managed) -> None:
    """32. ACL: operator:read is denied on get; operator:write is allowed, and sees the Config.

    nats-server refuses everybody else, before anything is heard.
    """
    subjects = dc.subjects
    commands = {*subjects.commands, subjects.config_get}
    questions = {
        subjects.roots_get: {"admin", "auditor", "client"},
        subjects.crl_get: {"admin", "auditor", "client"},
        subjects.status_get: {"admin", "auditor"},
    }
    allowed = {**{command: {"admin"} for command in commands}, **questions}
    async with dc.running("a"):
        await dc.lead("a")
        await dc.initialized()
        before = (await dc.state()).position
        dc.access.add_user("web", ["service.web", "agent.*"])
        for role, user in (("admin", "admin"), ("auditor", "auditor"), ("client", "web")):
            refused: list[str] = []
            nc = await dc.access.connect(user, refused)
            for subject, roles in allowed.items():
                refused.clear()
                await nc.publish(subject, b"[", reply=nc.new_inbox())  # refused by who hears it
                await nc.flush()
                assert refused == ([] if role in roles else [subject]), (role, subject)

        assert len(subjects.commands) >= 6
        assert (await dc.ask(subjects.config_get))["Config"]["LeafCertTTL"] == "72h"
        for subject in (*subjects.commands, subjects.crl_get):
            message = await dc.admin.request(subject, b"[", timeout=10)
            assert json.loads(message.data)["error"]["code"] == "malformed"
        for worker in ("signer", "replicator"):
            refused = []
            nc = await dc.access.connect(worker, refused)
            for subject in commands:
                await nc.publish(subject, b"{}", reply=nc.new_inbox())
                await nc.flush()
            assert set(refused) == commands
        assert (await dc.state()).position == before


async def test_a_command_is_answered_by_the_one_that_leads(dc: Managed) -> None:
    answers: list[Msg] = []

    async def take(message: Msg) -> None:
        answers.append(message)

    async with dc.running("a", "b", "c"):
        await dc.lead("b")
        await dc.initialized()
        inbox = dc.admin.new_inbox()
        await dc.admin.subscribe(inbox, cb=take)
        body = {"RequestID": "r-1", "Config": {"LeafCertTTL": "24h"}}
        for _ in range(10):  # as clients do that hear nothing
            await dc.admin.publish(dc.subjects.config_set, json.dumps(body).encode(), reply=inbox)
        told = await dc.ask(dc.subjects.config_set, body)  # after all of them

        assert told["Outcome"] in {"configured", "done"}
        assert await dc.count(CAConfigured) == 2
        assert len(answers) == 10  # one for each time that it was sent
        assert {json.loads(answer.data)["Outcome"] for answer in answers} <= {"configured", "done"}
        [acting] = [event for event in await dc.events() if isinstance(event, CAConfigured)][1:]
        assert acting.request_id == "r-1"

        await dc.lead("c")
        assert (await dc.ask(dc.subjects.config_set, body))["Outcome"] == "done"
        assert await dc.count(CAConfigured) == 2


async def test_a_rotation_that_waits_survives_the_leader_who_began_it(dc: Managed) -> None:
    subjects = dc.subjects
    body = {"RequestID": "r-1", "WaitSeconds": 2}
    async with dc.running("a", "b"):
        await dc.lead("a")
        await dc.initialized()
        begun = await dc.ask(subjects.rotation_start, body)
        assert (begun["Outcome"], begun["State"]) == ("rotating", "RECONFIGURING")

        await dc.lead("b")
        again = await dc.ask(subjects.rotation_start, body)
        assert again["Outcome"] in {"rotating", "done"}
        assert again["RootID"] == begun["RootID"]
        state = await dc.initialized()

        assert state.active_root is not None
        assert state.active_root.published.root_id == begun["RootID"]
        assert (await dc.ask(subjects.rotation_start, body))["Outcome"] == "done"
        assert await dc.count(RotationStarted) == 1
        assert await dc.count(RootActivated) == 2
        assert state.leader is not None
        assert state.leader.node == "b"


async def test_who_asked_is_on_the_ledger_and_a_given_key_is_told_by_its_id(dc: Managed) -> None:
    given = given_ca(certificates=2, now=SystemClock().now().replace(microsecond=0))
    async with dc.running("a"):
        await dc.lead("a")
        await dc.initialized()

        told = await dc.ask(dc.subjects.config_set, {"Config": given.config})

        assert told["Outcome"] == "rotated"
        [started] = [event for event in await dc.events() if isinstance(event, RotationStarted)]
        assert started.requester == dc.user_key("admin")
        config = (await dc.ask(dc.subjects.config_get))["Config"]
        assert config["PrivateKey"] == f"key:{started.config.given_key_id}"
        assert pem_chain(config["RootCert"]) == given.chain
        again = await dc.ask(dc.subjects.config_set, {"Config": config})
        assert again["Outcome"] == "nothing to change"
        assert private_pem(given.key).decode() not in json.dumps(config)
