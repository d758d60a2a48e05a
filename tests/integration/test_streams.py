"""Streams are made once, never over data, and everybody says what is wrong with them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from events.ledger import JetStreamLedger
from events.log import UnreachableError
from events.subjects import Subjects
from services import streams
from services.buckets import BucketError, bucket
from services.streams import SetupError
from tests.ledger import acquired
from tests.nats import NatsCluster, NatsServer

SUBJECTS = Subjects("dc1")
NAMES = [each["name"] for each in streams.stream_settings(SUBJECTS, replicas=1)]


async def api(nc: Client, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    reply = await nc.request(f"$JS.API.{name}", json.dumps(body or {}).encode())
    answer: dict[str, Any] = json.loads(reply.data)
    assert "error" not in answer, answer
    return answer


async def edit(nc: Client, stream: str, **settings: Any) -> None:
    config = (await api(nc, f"STREAM.INFO.{stream}"))["config"]
    await api(nc, f"STREAM.UPDATE.{stream}", {**config, **settings})


async def test_all_streams_are_made_once_and_then_found_as_they_must_be(nc: Client) -> None:
    assert NAMES == [
        "CA_LEDGER_dc1",
        "CA_ROOTS_dc1",
        "KV_CA_LEASES_dc1",
        "KV_CA_ROOT_KEYS_dc1",
        "KV_CA_SIGNING_KEYS_dc1",
        "CA_SUBMIT_dc1",
    ]
    assert await streams.create(nc, SUBJECTS, replicas=1) == NAMES
    assert await streams.create(nc, SUBJECTS, replicas=1) == []
    await streams.check(nc, SUBJECTS)


async def test_an_init_that_ended_midway_is_completed(nc: Client) -> None:
    await streams.create(nc, SUBJECTS, replicas=1)
    await api(nc, f"STREAM.DELETE.{NAMES[0]}")
    await api(nc, f"STREAM.DELETE.{NAMES[3]}")

    assert await streams.create(nc, SUBJECTS, replicas=1) == [NAMES[0], NAMES[3]]


async def test_what_was_never_made_is_told_by_a_check(nc: Client) -> None:
    with pytest.raises(SetupError, match="CA_LEDGER_dc1: no such stream; run `caledger init`"):
        await streams.check(nc, SUBJECTS)


async def test_a_ledger_is_not_made_again_beside_streams_that_hold_messages(nc: Client) -> None:
    await streams.create(nc, SUBJECTS, replicas=1)
    await nc.request(SUBJECTS.key(SUBJECTS.root_keys_bucket, "k"), b"sealed")
    await api(nc, f"STREAM.DELETE.{NAMES[0]}")

    with pytest.raises(SetupError, match="CA_LEDGER_dc1: missing although KV_CA_ROOT_KEYS_dc1"):
        await streams.create(nc, SUBJECTS, replicas=1)


async def test_keys_are_not_made_again_beside_a_ledger_that_holds_entries(nc: Client) -> None:
    await streams.create(nc, SUBJECTS, replicas=1)
    await JetStreamLedger(nc, SUBJECTS).append_authority([acquired()], term=1, expected_sequence=0)
    await api(nc, f"STREAM.DELETE.{NAMES[4]}")

    with pytest.raises(SetupError, match="KV_CA_SIGNING_KEYS_dc1: missing although CA_LEDGER"):
        await streams.create(nc, SUBJECTS, replicas=1)


@pytest.mark.parametrize(
    ("stream", "setting", "value"),
    [
        ("CA_LEDGER_dc1", "max_bytes", 10_000_000),
        ("CA_LEDGER_dc1", "max_age", 3600 * 10**9),
        ("CA_LEDGER_dc1", "duplicate_window", 120 * 10**9),
        ("CA_LEDGER_dc1", "allow_direct", False),
        ("CA_LEDGER_dc1", "discard", "old"),
        ("CA_ROOTS_dc1", "republish", {"src": ">", "dest": "elsewhere.>"}),
        ("KV_CA_LEASES_dc1", "max_msgs_per_subject", 2),
        ("KV_CA_ROOT_KEYS_dc1", "max_msgs_per_subject", 5),
    ],
)
async def test_a_setting_that_drifted_is_named(
    nc: Client, stream: str, setting: str, value: object
) -> None:
    await streams.create(nc, SUBJECTS, replicas=1)
    await edit(nc, stream, **{setting: value})

    with pytest.raises(SetupError, match=f"{stream}: setting {setting} is .* must be"):
        await streams.check(nc, SUBJECTS)
    with pytest.raises(SetupError, match=f"{stream}: setting {setting} is .* must be"):
        await streams.create(nc, SUBJECTS, replicas=1)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("subject_transform", {"src": "ca.dc1.roots.log", "dest": "ca.dc1.roots.other"}),
        ("sources", [{"name": "ELSEWHERE"}]),
        ("persist_mode", "async"),
        ("first_seq", 7),
        ("no_ack", True),
    ],
)
async def test_a_setting_that_none_of_our_streams_has_is_named(
    nc: Client, setting: str, value: object
) -> None:
    await streams.create(nc, SUBJECTS, replicas=1)
    await api(nc, f"STREAM.DELETE.{NAMES[1]}")
    roots = streams.stream_settings(SUBJECTS, replicas=1)[1]
    await api(nc, f"STREAM.CREATE.{NAMES[1]}", {**roots, setting: value})

    with pytest.raises(SetupError, match=f"CA_ROOTS_dc1: setting {setting}"):
        await streams.check(nc, SUBJECTS)


@pytest.mark.parametrize(
    "stream", ["CA_LEDGER", "CA_ROOTS", "KV_CA_ROOT_KEYS", "KV_CA_SIGNING_KEYS"]
)
@pytest.mark.parametrize("setting", ["allow_msg_ttl", "allow_batched"])
async def test_no_message_may_take_itself_away_or_come_in_a_way_that_we_do_not_use(
    nc: Client, stream: str, setting: str
) -> None:
    await streams.create(nc, SUBJECTS, replicas=1)
    await edit(nc, f"{stream}_dc1", **{setting: True})

    with pytest.raises(SetupError, match=f"{stream}_dc1: setting {setting} is True and must be"):
        await streams.check(nc, SUBJECTS)


async def test_a_bucket_is_not_republished_to_where_others_hear_it(nc: Client) -> None:
    await streams.create(nc, SUBJECTS, replicas=1)
    await edit(nc, NAMES[3], republish={"src": ">", "dest": "elsewhere.>"})

    with pytest.raises(SetupError, match=f"{NAMES[3]}: setting republish is .* must be unset"):
        await streams.check(nc, SUBJECTS)


async def test_settings_that_do_nothing_to_messages_are_the_operators_to_change(nc: Client) -> None:
    await streams.create(nc, SUBJECTS, replicas=1)
    for name in NAMES:
        await edit(
            nc,
            name,
            description="of the CA",
            metadata={"owner": "platform"},
            compression="s2",
            max_consumers=10,
            consumer_limits={"max_ack_pending": 10},
        )

    await streams.check(nc, SUBJECTS)


async def test_the_replicas_are_the_operators_to_change_but_not_by_init(nc: Client) -> None:
    await streams.create(nc, SUBJECTS, replicas=1)

    with pytest.raises(SetupError, match="num_replicas is 1 and must be 3"):
        await streams.create(nc, SUBJECTS, replicas=3)


@pytest.mark.parametrize("rollup", ["all", "sub"])
async def test_who_may_write_one_key_cannot_take_the_others_away(nc: Client, rollup: str) -> None:
    await streams.create(nc, SUBJECTS, replicas=1)
    leases = bucket(nc, SUBJECTS.lease_bucket)
    await leases.write("leader", b"held", expected=0)

    evil = {"Nats-Rollup": rollup}
    with pytest.raises(BucketError, match="rollup"):
        await leases.write("signer.evil", b"x", expected=0, headers=evil)

    assert [value.key for value in await leases.all()] == ["leader"]


async def test_a_key_that_is_removed_leaves_a_marker_only(nc: Client) -> None:
    await streams.create(nc, SUBJECTS, replicas=1)
    keys = bucket(nc, SUBJECTS.root_keys_bucket)
    await keys.write("k", b"sealed", expected=0)

    await keys.purge("k")

    state = (await api(nc, "STREAM.INFO.KV_CA_ROOT_KEYS_dc1"))["state"]
    assert (state["messages"], state["last_seq"]) == (1, 2)
    assert await keys.all() == []


async def test_a_durable_server_is_accepted(nc: Client) -> None:
    await streams.check_durability(nc, SUBJECTS)


async def test_a_server_with_the_default_sync_interval_is_refused(tmp_path: Path) -> None:
    async with NatsServer(tmp_path, sync_always=False) as server:
        nc = await server.client()
        with pytest.raises(SetupError, match=r"nats-server n0 .*set `jetstream .*always"):
            await streams.check_durability(nc, SUBJECTS)


async def test_a_server_that_does_not_say_whether_it_is_durable_is_refused(nc: Client) -> None:
    other = Subjects("dc1")
    other.varz = "ca.nobody"
    with pytest.raises(SetupError, match="no server says"):
        await streams.check_durability(nc, other)


async def test_a_server_that_is_away_is_not_taken_for_one_without_streams(
    nats_server: NatsServer, nc: Client
) -> None:
    nats_server.pause()
    try:
        with pytest.raises(SetupError, match="does not answer"):
            await streams.create(nc, SUBJECTS, replicas=1)
    finally:
        nats_server.resume()


@pytest.mark.slow
async def test_one_server_of_three_that_is_not_durable_is_named(tmp_path: Path) -> None:
    async with NatsCluster(tmp_path, sync_always=(True, False, True)) as cluster:
        nc = await cluster.client()
        with pytest.raises(SetupError, match="nats-server n1 may lose"):
            await streams.check_durability(nc, SUBJECTS)
        assert await streams.create(nc, SUBJECTS, replicas=3) == NAMES
        await streams.check(nc, SUBJECTS)


@pytest.mark.slow
async def test_a_slow_server_of_a_cluster_is_waited_for_and_then_missed(tmp_path: Path) -> None:
    """It has said nothing for longer than the others' silence, and could be the lossy one."""
    async with NatsCluster(tmp_path, sync_always=(True, False, True)) as cluster:
        nc = await cluster.client()
        slow = cluster.server("n1")

        slow.pause()
        check = asyncio.create_task(streams.check_durability(nc, SUBJECTS))
        await asyncio.wait([check], timeout=2 * streams.SILENCE_SECONDS)
        assert not check.done()
        slow.resume()
        with pytest.raises(SetupError, match="nats-server n1 may lose"):
            await check

        slow.pause()
        with pytest.raises(SetupError, match="of 3 servers only n0, n2 said") as missed:
            await streams.check_durability(nc, SUBJECTS)
        assert isinstance(missed.value.__cause__, UnreachableError)
