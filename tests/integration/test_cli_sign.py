"""Which keys `caledger sign` keeps: every one for which there may be a certificate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from projections.bundle import Roots
from services.cli.common import CliError, Exit, Target
from services.cli.signing import Asking, fetch, sign, submit
from services.cli.signing_files import SigningFiles
from services.refusals import RefusedError
from tests import factories
from tests.nats import NatsServer

BUNDLE = msgspec.json.encode(
    Roots(active_root_id="id", trust_domain=factories.TRUST_DOMAIN, roots=(), ledger_sequence=2)
)


class Ca:
    """Says to each request what a test has it say; None is silence."""

    def __init__(self, nc: Client, server: NatsServer, folder: Path) -> None:
        self.nc = nc
        self.server = server
        self.folder = folder
        self.say: list[str | None] = []

    async def begin(self) -> None:
        async def roots(message: Msg) -> None:
            headers = {"Nats-Sequence": "1"}
            await self.nc.publish(message.reply, BUNDLE, headers=headers)

        async def signer(message: Msg) -> None:
            code = self.say.pop(0) if len(self.say) > 1 else self.say[0]
            if code is not None:
                await message.respond(
                    json.dumps({"error": {"code": code, "message": "no"}}).encode()
                )

        await self.nc.subscribe("ca.dc1.roots.read", cb=roots)

        async def queue(message: Msg) -> None:
            code = self.say[0]
            error = {"error": {"code": 503, "err_code": 10077, "description": code}}
            told = {"stream": "CA_SUBMIT_dc1", "seq": 1} if code == "stored" else error
            if code is not None:
                await message.respond(json.dumps(told).encode())

        await self.nc.subscribe("ca.dc1.work.>", cb=signer)
        await self.nc.subscribe("ca.dc1.submitted.>", cb=queue)
        await self.nc.flush()

    async def sign(self, *said: str | None, request_id: str | None = None) -> BaseException:
        """Ask for a certificate as the command does; return how that fails."""
        self.say = list(said)
        target = Target((self.server.url,), None, None, "dc1")
        files = SigningFiles("web", self.folder)
        with pytest.raises((CliError, RefusedError)) as failed:
            await sign(Asking(target, files, None, "p256", 1.0, json=False), request_id)
        return failed.value

    def asking(self) -> Asking:
        target = Target((self.server.url,), None, None, "dc1")
        return Asking(target, SigningFiles("web", self.folder), None, "p256", 1.0, json=False)

    async def submit(self, said: str | None, request_id: str | None = None) -> str:
        """Leave a durable request as the command does."""
        self.say = [said]
        return await submit(self.asking(), request_id)

    async def fetch(self, said: str | None, request_id: str) -> BaseException:
        """Fetch as the command does; return how that fails."""
        self.say = [said]
        with pytest.raises((CliError, RefusedError)) as failed:
            await fetch(self.asking(), request_id)
        return failed.value

    def keys(self) -> list[str]:
        """Return the ids whose keys wait."""
        names = [file.name for file in self.folder.glob(".web-*-key.pem")]
        return [name.removeprefix(".web-").removesuffix("-key.pem") for name in names]


@pytest.fixture
async def ca(nats_server: NatsServer, nc: Client, tmp_path: Path) -> Ca:
    """A CA that always says no, or nothing."""
    ca = Ca(nc, nats_server, tmp_path / "web")
    ca.folder.mkdir()
    await ca.begin()
    return ca


async def test_a_key_whose_request_can_never_be_granted_is_removed(ca: Ca) -> None:
    error = await ca.sign("bad_signature")

    assert isinstance(error, RefusedError)
    assert ca.keys() == []


@pytest.mark.parametrize(
    "said",
    [["internal"], ["not_ready"], ["rate_limited"], [None], [None, "internal"]],
    ids=str,
)
async def test_a_key_is_kept_and_its_id_told_where_asking_again_may_help(
    ca: Ca, said: Sequence[str | None]
) -> None:
    error = await ca.sign(*said)

    [kept] = ca.keys()
    assert isinstance(error, CliError)
    assert str(error).endswith(f"--request-id {kept}")
    assert error.code == (Exit.UNREACHABLE if said == [None] else Exit.FAULT)
    if said != [None]:
        assert str(error).startswith(f"refused: {said[-1]}: no")


@pytest.mark.parametrize("code", ["malformed", "request_id_conflict"])
async def test_a_key_is_kept_whatever_is_said_after_a_silence(ca: Ca, code: str) -> None:
    await ca.sign(None, code)

    assert len(ca.keys()) == 1


@pytest.mark.parametrize("code", ["malformed", "bad_signature", "internal", "request_id_conflict"])
async def test_a_key_of_an_id_that_was_named_is_kept_whatever_is_said(ca: Ca, code: str) -> None:
    """Another run may have got a certificate for it."""
    await ca.sign("not_found", code, request_id="R-1")

    assert ca.keys() == ["R-1"]


async def test_the_key_of_a_durable_request_waits_until_there_is_an_answer_for_ever(
    ca: Ca,
) -> None:
    request_id = await ca.submit("stored")
    assert ca.keys() == [request_id]

    for said, code in ((None, Exit.UNREACHABLE), ("pending", Exit.FAULT), ("internal", Exit.FAULT)):
        error = await ca.fetch(said, request_id)
        assert isinstance(error, CliError)
        assert (error.code, str(error).endswith(f"--fetch {request_id}")) == (code, True)
        assert ca.keys() == [request_id]
    for said in ("not_found", "request_id_conflict"):
        assert isinstance(await ca.fetch(said, request_id), RefusedError)
        assert ca.keys() == [request_id]
    error = await ca.fetch("identity_mismatch", request_id)
    assert isinstance(error, RefusedError)
    assert error.code == "identity_mismatch"
    assert ca.keys() == []


@pytest.mark.parametrize("said", [None, "maximum messages per subject exceeded"])
async def test_a_durable_request_that_is_not_acknowledged_is_not_told_as_left(
    ca: Ca, said: str | None
) -> None:
    with pytest.raises(CliError) as failed:
        await ca.submit(said)

    [kept] = ca.keys()
    assert str(failed.value).endswith(f"--durable --request-id {kept}")
    assert failed.value.code == (Exit.UNREACHABLE if said is None else Exit.FAULT)
    assert (said or "no answer") in str(failed.value)
    csr = (ca.folder / f".web-{kept}.csr").read_text()
    assert await ca.submit("stored", kept) == kept
    assert (ca.folder / f".web-{kept}.csr").read_text() == csr  # the very same
