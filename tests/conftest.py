"""What tests of several areas share."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import hypothesis
import pytest
from nats.aio.client import Client

from tests.nats import NatsCluster, NatsServer

# On a machine that others use as well, how long an example takes says nothing of the code.
hypothesis.settings.register_profile("caledger", deadline=None, print_blob=True)
hypothesis.settings.load_profile("caledger")

# A shell's `&` has all that it starts ignore Ctrl-C, and so would every process of a test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """One running nats-server of datacenter dc1, without streams."""
    async with NatsServer(tmp_path) as server:
        yield server


@pytest.fixture
async def nats_cluster(tmp_path: Path) -> AsyncIterator[NatsCluster]:
    """Three running nats-servers of datacenter dc1, without streams."""
    async with NatsCluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
async def nc(nats_server: NatsServer) -> Client:
    """A connection to `nats_server`."""
    return await nats_server.client()
