"""How a command's connection fails."""

from __future__ import annotations

import asyncio

import pytest

from events.subjects import BadNameError
from services.asking import NoAnswerError
from services.cli.common import CliError, Exit, Target, find
from services.nats_access.server_process import find_binary
from tests.nats import NatsServer, free_port


def of(environment: dict[str, str]) -> Target:
    return find(data=None, context=None, user=None, datacenter=None, environment=environment)


async def test_silence_of_a_server_of_the_environment_is_told_with_where_it_is_from(
    nats_server: NatsServer,
) -> None:
    target = of({"NATS_URL": nats_server.url})

    with pytest.raises(CliError, match=r"silence \(server from NATS_URL\)") as error:
        async with target.client():
            raise NoAnswerError("silence")

    assert error.value.code is Exit.UNREACHABLE


async def test_a_server_that_wants_credentials_that_were_not_given_is_told() -> None:
    port = free_port()
    command = (find_binary(), "-a", "127.0.0.1", "-p", str(port), "--auth", "secret")
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        while b"Server is ready" not in await process.stderr.readline():
            pass
        with pytest.raises(CliError, match=r"from NATS_URL.*NATS_CREDS is not set") as error:
            async with of({"NATS_URL": f"nats://127.0.0.1:{port}"}).client():
                pass
    finally:
        process.kill()
        await process.wait()

    assert error.value.code is Exit.NOT_PERMITTED


async def test_a_datacenter_that_is_none_is_told_before_anything_is_opened(
    nats_server: NatsServer,
) -> None:
    tasks = asyncio.all_tasks()
    target = Target((nats_server.url,), None, None, "a.b")

    with pytest.raises(BadNameError):
        async with target.client():
            pass

    assert asyncio.all_tasks() == tasks
