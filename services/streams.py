"""The streams and buckets of a datacenter: made once by `caledger init`, checked by all workers."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from events import jetstream
from events.base import Struct
from events.log import LedgerError, UnreachableError
from events.subjects import Subjects

DUPLICATE_WINDOW_SECONDS: Final = 600
MARKER_SECONDS: Final = 1  # how long the marker of an expired lease stays
FIRST_SERVER_SECONDS: Final = 2.0
SILENCE_SECONDS: Final = 0.3  # after which no further server is expected to answer

Settings = dict[str, Any]  # of a stream, by JetStream's own names


class SetupError(Exception):
    """The servers or streams are not as they must be; the text says what, and what to do."""


class _Info(Struct):
    config: Settings
    state: _State


class _State(Struct):
    last_seq: int


def stream_settings(subjects: Subjects, *, replicas: int) -> list[Settings]:
    """Return the settings of every stream, the ledger first; buckets are streams as well.

    Limits are named although they are JetStream's defaults: one that is set later would delete.
    """
    return [
        {
            **_stream(subjects.ledger_stream, subjects.ledger, replicas),
            "deny_purge": True,
            "allow_atomic": True,
            "duplicate_window": DUPLICATE_WINDOW_SECONDS * 10**9,
            "republish": {"src": subjects.ledger, "dest": subjects.live},
        },
        {
            **_stream(subjects.roots_stream, subjects.roots_log, replicas),
            "deny_purge": True,
            "republish": {"src": subjects.roots_log, "dest": subjects.roots_changed},
        },
        {
            **_bucket(subjects, subjects.lease_bucket, replicas),
            "allow_msg_ttl": True,
            "subject_delete_marker_ttl": MARKER_SECONDS * 10**9,
        },
        _bucket(subjects, subjects.root_keys_bucket, replicas),
        _bucket(subjects, subjects.signing_keys_bucket, replicas),
    ]


async def create(
    nc: Client, subjects: Subjects, *, replicas: int, expected: bool = False
) -> list[str]:
    """Make what is missing; return the names of what was made.

    `expected`: the streams were made before (the node's init marker says so), and nothing is made.
    Nor is anything made where a stream of ours holds messages already. A stream that was there and
    looks missing may be unreadable (a wrong JetStream encryption key): making it anew deletes it.
    Raises SetupError, before anything is changed, where a stream is missing so or differs.
    """
    settings = stream_settings(subjects, replicas=replicas)
    found = {each["name"]: await _info(nc, each["name"]) for each in settings}
    for each in settings:
        if (info := found[each["name"]]) is not None:
            _compare(each, info.config)
    missing = [each for each in settings if found[each["name"]] is None]
    used = [name for name, info in found.items() if info is not None and info.state.last_seq > 0]
    if missing and (expected or used):
        names = ", ".join(each["name"] for each in missing)
        because = f"{used[0]} holds messages" if used else "they were made before"
        raise SetupError(
            f"{names}: missing although {because}; not made again, since that would delete what a "
            "server with the wrong JetStream encryption key or store folder cannot see. "
            "Check `jetstream` in the server's configuration"
        )
    for each in missing:
        await _create(nc, each)
    return [each["name"] for each in missing]


async def check(nc: Client, subjects: Subjects) -> None:
    """Raise SetupError where a stream is missing or differs from what `create` makes.

    The number of replicas is the operator's to change.
    """
    for each in stream_settings(subjects, replicas=1):
        del each["num_replicas"]
        info = await _info(nc, each["name"])
        if info is None:
            raise SetupError(f"{each['name']}: no such stream; run `caledger init` first")
        _compare(each, info.config)


async def check_durability(nc: Client, subjects: Subjects) -> None:
    """Raise SetupError unless every server flushes each write before it is acknowledged.

    With JetStream's default an acknowledged write may be lost for two minutes (architecture, 3).
    """
    for name, data in await _servers(nc, subjects):
        config = data.get("jetstream", {}).get("config")
        if config is None:
            continue  # a server without JetStream keeps nothing
        if config.get("sync_always") is not True:
            raise SetupError(
                f"nats-server {name} may lose acknowledged writes: set "
                "`jetstream { sync_interval: always }` in its configuration and restart it"
            )


class _Server(Struct):
    name: str


class _Varz(Struct):
    server: _Server
    data: dict[str, Any] = {}


async def _servers(nc: Client, subjects: Subjects) -> list[tuple[str, dict[str, Any]]]:
    """Ask all servers for their settings at once: (name, settings) of each that answered."""
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = nc.new_inbox()
    subscription = None
    found: dict[str, dict[str, Any]] = {}
    try:
        subscription = await nc.subscribe(inbox, cb=answers.put)
        await nc.publish(subjects.varz, b"", reply=inbox)
        while True:
            patience = SILENCE_SECONDS if found else FIRST_SERVER_SECONDS
            reply = await asyncio.wait_for(answers.get(), patience)
            if reply.headers and reply.headers.get("Status"):
                break  # no responders
            varz = msgspec.json.decode(reply.data, type=_Varz)
            found[varz.server.name] = varz.data
    except TimeoutError:
        pass
    except NatsError as error:
        raise SetupError(f"{subjects.varz}: the connection was lost") from UnreachableError(error)
    except msgspec.MsgspecError as error:
        raise SetupError(f"{subjects.varz}: an answer that cannot be read: {error}") from error
    finally:
        if subscription is not None and not nc.is_closed:
            await subscription.unsubscribe()
    if not found:
        raise SetupError(
            f"{subjects.varz}: no server says whether it is durable; account CA must import "
            "$SYS.REQ.SERVER.PING.VARZ from account SYS under this name"
        ) from UnreachableError("no answer")
    return sorted(found.items())


def _stream(name: str, subject: str, replicas: int) -> Settings:
    return {
        "name": name,
        "subjects": [subject],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "num_replicas": replicas,
        "deny_delete": True,
        "allow_direct": True,
        "sealed": False,
    }


def _bucket(subjects: Subjects, bucket: str, replicas: int) -> Settings:
    name = subjects.stream_of_bucket(bucket)
    return {
        **_stream(name, subjects.key(bucket, ">"), replicas),
        "max_msgs_per_subject": 1,
        "allow_rollup_hdrs": True,
    }


# Settings that none of our streams has: they lose, add or rename messages.
_ABSENT: Final = (
    "mirror",
    "sources",
    "subject_transform",
    "first_seq",
    "no_ack",
    "discard_new_per_subject",
)


def _compare(wanted: Settings, config: Settings) -> None:
    name = wanted["name"]
    for setting, value in wanted.items():
        if config.get(setting) != value:
            raise SetupError(
                f"{name}: setting {setting} is {config.get(setting)!r} and must be {value!r}; "
                f"set it with `nats stream edit {name}`"
            )
    for setting in _ABSENT:
        if config.get(setting):
            raise SetupError(f"{name}: setting {setting} is {config[setting]!r} and must be unset")
    if config.get("persist_mode", "default") != "default":
        raise SetupError(f"{name}: setting persist_mode is 'async': acknowledged writes are lost")


async def _info(nc: Client, name: str) -> _Info | None:
    try:
        reply, error = await jetstream.request(nc, f"$JS.API.STREAM.INFO.{name}")
        if error is None:
            return jetstream.decode(reply, _Info)
    except LedgerError as failed:
        raise SetupError(f"{name}: JetStream does not answer: {failed}") from failed
    if error.err_code == jetstream.NO_STREAM:
        return None
    raise SetupError(f"{name}: {error}")


async def _create(nc: Client, settings: Settings) -> None:
    """Make a stream; repeating it is safe, since JetStream answers alike for equal settings."""
    name = settings["name"]
    try:
        _, error = await jetstream.request(nc, f"$JS.API.STREAM.CREATE.{name}", settings)
    except LedgerError as failed:
        raise SetupError(f"{name}: not made: {failed}") from failed
    if error is not None:
        raise SetupError(f"{name}: not made: {error}")
