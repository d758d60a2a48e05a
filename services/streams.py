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

DUPLICATE_WINDOW_SECONDS: Final = 600  # unless the node's configuration names another
FIRST_SERVER_SECONDS: Final = 2.0
SILENCE_SECONDS: Final = 0.3  # after which no server that nobody knows of is expected to answer
MISSING_SECONDS: Final = 3.0  # for a server to answer that another is connected to

# Durable requests: what waits is bounded, and full for one identity before it is for all.
SUBMIT_BYTES_MAX: Final = 256 * 1024 * 1024
SUBMIT_MESSAGE_BYTES_MAX: Final = 96 * 1024  # a body's 64 kB, and headers with who asks
SUBMIT_PER_IDENTITY_MAX: Final = 64
SUBMIT_DUPLICATE_WINDOW: Final = 100 * 10**6  # ns, the least: message ids are the askers' to choose

_MADE_BEFORE: Final = (
    "; or `init` was done by a version that had no durable requests, whose accounts have no "
    "subjects for them either: this version needs a node of its own"
)

Settings = dict[str, Any]  # of a stream, by JetStream's own names


class SetupError(Exception):
    """The servers or streams are not as they must be; the text says what, and what to do."""


class SilentServerError(SetupError):
    """All servers that answered are durable, but one that they know did not answer."""


class _Info(Struct):
    config: Settings
    state: jetstream.StreamState


def stream_settings(
    subjects: Subjects, *, replicas: int, duplicate_window: int = DUPLICATE_WINDOW_SECONDS
) -> list[Settings]:
    """Return the settings of every stream, the ledger first; buckets are streams as well.

    Limits are named although they are JetStream's defaults: one that is set later would delete.
    """
    return [
        {
            **_stream(subjects.ledger_stream, subjects.ledger, replicas),
            "deny_purge": True,
            "allow_atomic": True,
            "duplicate_window": duplicate_window * 10**9,
            "republish": {"src": subjects.ledger, "dest": subjects.live},
        },
        {
            **_stream(subjects.roots_stream, subjects.roots_log, replicas),
            "deny_purge": True,
            "republish": {"src": subjects.roots_log, "dest": subjects.roots_changed},
        },
        {**_bucket(subjects, subjects.lease_bucket, replicas), "allow_msg_ttl": True},
        _bucket(subjects, subjects.root_keys_bucket, replicas),
        _bucket(subjects, subjects.signing_keys_bucket, replicas),
        {
            **_stream(subjects.submit_stream, subjects.submitted_all, replicas),
            "retention": "workqueue",  # a signer removes each once it is done
            "deny_delete": False,
            "deny_purge": True,
            "max_bytes": SUBMIT_BYTES_MAX,
            "max_msg_size": SUBMIT_MESSAGE_BYTES_MAX,
            "max_msgs_per_subject": SUBMIT_PER_IDENTITY_MAX,
            "discard_new_per_subject": True,
            "duplicate_window": SUBMIT_DUPLICATE_WINDOW,
            "allow_direct": False,  # a copy that lags would deny what was acknowledged
        },
    ]


async def create(
    nc: Client,
    subjects: Subjects,
    *,
    replicas: int,
    duplicate_window: int = DUPLICATE_WINDOW_SECONDS,
) -> list[str]:
    """Make what is missing; return the names of what was made.

    Nothing is made where a stream of ours holds messages already. A stream that was there and looks
    missing may be unreadable (a wrong JetStream encryption key): making it anew deletes it. So who
    knows that they were made before calls `check` instead.
    Raises SetupError, before anything is changed, where a stream is missing so or differs.
    """
    settings = stream_settings(subjects, replicas=replicas, duplicate_window=duplicate_window)
    found = {each["name"]: await _info(nc, each["name"]) for each in settings}
    for each in settings:
        if (info := found[each["name"]]) is not None:
            compare(each, info.config)
    missing = [each for each in settings if found[each["name"]] is None]
    used = [name for name, info in found.items() if info is not None and info.state.last_seq > 0]
    if missing and used:
        names = ", ".join(each["name"] for each in missing)
        raise SetupError(
            f"{names}: missing although {used[0]} holds messages; not made again, since that would "
            "delete what a server with the wrong JetStream encryption key or store folder cannot "
            "see. Check `jetstream` in the server's configuration"
        )
    for each in missing:
        await _create(nc, each)
    return [each["name"] for each in missing]


async def check(
    nc: Client, subjects: Subjects, *, duplicate_window: int = DUPLICATE_WINDOW_SECONDS
) -> None:
    """Raise SetupError where a stream is missing or differs from what `create` makes.

    The number of replicas is the operator's to change, and whatever else `compare` lets pass.
    """
    for each in stream_settings(subjects, replicas=1, duplicate_window=duplicate_window):
        del each["num_replicas"]
        info = await _info(nc, each["name"])
        if info is None:
            raise SetupError(
                f"{each['name']}: no such stream; run `caledger init` first. If that was done, the "
                "server may have the wrong JetStream encryption key or store folder"
                + (_MADE_BEFORE if each["name"] == subjects.submit_stream else "")
            )
        compare(each, info.config)


async def check_durability(nc: Client, subjects: Subjects) -> None:
    """Raise SetupError unless every server flushes each write before it is acknowledged.

    With JetStream's default an acknowledged write may be lost for two minutes (architecture, 3).
    Raises SilentServerError where one that the others are connected to does not say.
    """
    found = await _servers(nc, subjects)
    for name, data in sorted(found.items()):
        config = data.jetstream.config
        if config is not None and not config.sync_always:  # one without JetStream keeps nothing
            raise SetupError(
                f"nats-server {name} may lose acknowledged writes: set "
                "`jetstream { sync_interval: always }` in its configuration and restart it"
            )
    if len(found) < (number := _known(found)):
        raise SilentServerError(
            f"of {number} servers only {', '.join(sorted(found))} said in {MISSING_SECONDS:g} s "
            "whether they are durable"
        ) from UnreachableError("a server did not answer")


class _Server(Struct):
    name: str


class _JetStream(Struct):
    config: _JetStreamConfig | None = None


class _JetStreamConfig(Struct):
    sync_always: bool = False


class _Settings(Struct):
    jetstream: _JetStream = _JetStream()
    remotes: int = 0  # servers of its cluster that it is connected to


class _Varz(Struct):
    server: _Server
    data: _Settings = _Settings()


async def _servers(nc: Client, subjects: Subjects) -> dict[str, _Settings]:
    """Ask all servers for their settings at once: of each that answered, by its name.

    Those that any of them is connected to must be among these: a slow one keeps data as well. One
    that is down is not waited for; as it comes back, nobody has been told that it is durable.
    """
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = nc.new_inbox()
    subscription = None
    found: dict[str, _Settings] = {}
    try:
        subscription = await nc.subscribe(inbox, cb=answers.put)
        await nc.publish(subjects.varz, b"", reply=inbox)
        await _collect(answers, found)
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
    return found


async def _collect(answers: asyncio.Queue[Msg], found: dict[str, _Settings]) -> None:
    """Collect answers for as long as one is missing, or one more may come."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + MISSING_SECONDS
    while True:
        if len(found) < _known(found):
            patience = deadline - loop.time()
        else:
            patience = SILENCE_SECONDS if found else FIRST_SERVER_SECONDS
        try:
            reply = await asyncio.wait_for(answers.get(), patience)
        except TimeoutError:
            return
        if reply.headers and reply.headers.get("Status"):
            return  # no responders
        varz = msgspec.json.decode(reply.data, type=_Varz)
        found[varz.server.name] = varz.data


def _known(found: dict[str, _Settings]) -> int:
    """Return how many servers there are, as those say that answered."""
    return 1 + max((settings.remotes for settings in found.values()), default=-1)


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
        "deny_purge": True,
        "allow_rollup_hdrs": False,  # who may write one key could purge all of them
    }


# What the operator may choose, since no message is lost, changed, doubled or hidden by it.
_FREE: Final = frozenset(
    {
        "description",
        "metadata",
        "num_replicas",
        "placement",
        "compression",
        "max_consumers",
        "consumer_limits",
        "duplicate_window",  # where we name none: nothing that goes there has a message id
    }
)


def compare(wanted: Settings, found: Settings) -> None:
    """Raise SetupError unless a stream is as we want it, and has nothing set beyond that.

    `found` is what JetStream says, which leaves some settings out that are not set. One of a later
    version, which nobody here knows, is refused as well: it may take messages away (as a TTL does).
    """
    name = wanted["name"]
    for setting, value in wanted.items():
        if not _same(found.get(setting), value):
            raise SetupError(
                f"{name}: setting {setting} is {found.get(setting)!r} and must be {value!r}; "
                f"set it with `nats stream edit {name}`"
            )
    for setting, value in found.items():
        if setting in wanted or setting in _FREE or _same(value, None):
            continue
        raise SetupError(
            f"{name}: setting {setting} is {value!r} and must be unset: nobody here knows that it "
            f"keeps every message as it is. Unset it with `nats stream edit {name}`; what "
            "JetStream never unsets (allow_msg_ttl) takes `nats stream backup`, and `nats stream "
            "restore --config` without it"
        )


def _same(found: object, wanted: object) -> bool:
    return found == wanted or not (found or wanted)


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
