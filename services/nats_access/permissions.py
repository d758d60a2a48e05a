"""Who may publish and hear what: every allow list of the system, made from `Subjects` alone.

What is not listed is refused by nats-server. A sender's *reply* subject is checked by nobody; that
is closed by the accounts (`accounts.py`), and by the rule that no worker has NATS's permission to
respond (`resp`): workers answer below `_R_.` and `_INBOX.` only (architecture 6.1).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final, assert_never

from events.base import Struct
from events.leaves import IDENTITY_KINDS
from events.subjects import NAMELESS_KINDS, BadNameError, Subjects, decode_name

EVERY_NAME: Final = "*"

GRANTED_BYTES_MAX: Final = 36_000  # of subjects; a token that fits `server_config`'s control line

CLAIMS_UPDATE: Final = "$SYS.REQ.CLAIMS.UPDATE"

_ANSWERS: Final = ("_R_.>", "_INBOX.>")  # where those are heard who ask


class BadGrantError(ValueError):
    """What a user is to sign for is not written as `sign_subjects` reads it, or is too much."""


class Role(enum.Enum):
    """What a user is; workers' users are named after their role."""

    INIT = "init"
    LEADER_ELECTOR = "leader-elector"
    ROOT_MANAGER = "root-manager"
    SIGNER = "signer"
    REPLICATOR = "replicator"
    SYS = "sys"
    ADMIN = "admin"
    AUDITOR = "auditor"
    CLIENT = "client"


# The accounts that they are in: whoever may write `authority`, whoever may not, everybody else.
CA: Final = (Role.INIT, Role.LEADER_ELECTOR, Role.ROOT_MANAGER)
WORKERS: Final = (Role.SIGNER, Role.REPLICATOR)
CLIENTS: Final = (Role.ADMIN, Role.AUDITOR, Role.CLIENT)
READY: Final = "caledger-dev"  # asks, for `caledger dev`, whether every partition answers
RESERVED_NAMES: Final = frozenset((*(role.value for role in Role), READY))


class Permissions(Struct):
    """The subjects that a user may publish on, and subscribe to."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def permissions(
    role: Role, subjects: Subjects, *, user: str | None = None, sign: Sequence[str] = ()
) -> Permissions:
    """Return all that a user of this role may do.

    `user` is the user's name where it is not the role's; `sign` the identities a client may ask
    certificates for, as `sign_subjects` reads them. Raises BadGrantError.
    """
    inbox = f"{subjects.inbox_prefix(user or role.value)}.>"
    match role:
        case Role.INIT:
            return Permissions(publish=_init(subjects), subscribe=(inbox,))
        case Role.LEADER_ELECTOR:
            return Permissions(
                publish=(*_worker(subjects), *_leader_elector(subjects)),
                subscribe=(inbox, subjects.live),
            )
        case Role.ROOT_MANAGER:
            return Permissions(
                publish=(*_worker(subjects), *_root_manager(subjects), *_ANSWERS),
                subscribe=(inbox, subjects.live, *answered(subjects)),
            )
        case Role.SIGNER:
            return Permissions(
                publish=(*_carried(subjects, _signs(subjects)), *_ANSWERS),
                subscribe=(inbox, subjects.live, subjects.work_all, subjects.sign_all),
            )
        case Role.REPLICATOR:
            return Permissions(
                publish=_carried(subjects, _worker(subjects)), subscribe=(inbox, subjects.live)
            )
        case Role.SYS:
            return Permissions(publish=(CLAIMS_UPDATE,), subscribe=(inbox,))
        case Role.ADMIN:
            return Permissions(
                publish=(
                    *_reads(subjects),
                    subjects.audit_read,
                    subjects.sign_all,
                    subjects.submit_all,
                    subjects.status_get,
                    subjects.config_get,
                    *subjects.commands,
                ),
                subscribe=(inbox, *_hears(subjects), subjects.live),
            )
        case Role.AUDITOR:
            return Permissions(
                publish=(*_reads(subjects), subjects.audit_read, subjects.status_get),
                subscribe=(inbox, *_hears(subjects), subjects.live),
            )
        case Role.CLIENT:
            return Permissions(
                publish=(*_reads(subjects), *_asks(subjects, sign)),
                subscribe=(inbox, *_hears(subjects)),
            )
        case _:
            assert_never(role)


def _asks(subjects: Subjects, sign: Sequence[str]) -> tuple[str, ...]:
    """Return where a client asks for certificates of these identities; raises BadGrantError."""
    asks = tuple(subject for identity in sign for subject in sign_subjects(subjects, identity))
    if sum(map(len, asks)) > GRANTED_BYTES_MAX:
        raise BadGrantError(
            "too many identities to be told in one user's token: grant all of a kind "
            f"('service.{EVERY_NAME}'), or make several users"
        )
    return asks


def sign_subjects(subjects: Subjects, identity: str) -> tuple[str, str]:
    """Return where `service.web`, all of `service.*`, or `gateway` is asked for: now, and durably.

    Raises BadGrantError.

    A name may be percent-encoded, as it is in subjects; one that holds a wildcard of NATS has to
    be, as nobody who writes `service.>` means the service of that name.
    """
    kind, dot, name = identity.partition(".")
    if kind in NAMELESS_KINDS and not dot:
        return subjects.sign(kind), subjects.submit(kind)
    if kind not in IDENTITY_KINDS or kind in NAMELESS_KINDS or not dot:
        raise BadGrantError(
            f"{identity!r} is not written as service.NAME, agent.NAME, gateway or server"
        )
    if name == EVERY_NAME:
        return subjects.sign_every(kind), subjects.submit_every(kind)
    if {"*", ">"} & set(name):
        raise BadGrantError(
            f"{identity!r}: all of them are '{kind}.{EVERY_NAME}'; one of that very name is "
            f"{kind}.{name.replace('*', '%2A').replace('>', '%3E')}"
        )
    try:
        return subjects.sign(kind, _decoded(name)), subjects.submit(kind, _decoded(name))
    except BadNameError as error:
        raise BadGrantError(f"{identity!r}: {error}") from error


def _decoded(name: str) -> str:
    """Return the name that this is the encoded form of, or itself."""
    try:
        return decode_name(name)
    except BadNameError:
        return name


def streams_of(subjects: Subjects) -> tuple[str, ...]:
    """Return every stream of the system; workers check the settings of all of them."""
    buckets = (subjects.lease_bucket, subjects.root_keys_bucket, subjects.signing_keys_bucket)
    return (
        subjects.ledger_stream,
        subjects.roots_stream,
        subjects.submit_stream,
        *(subjects.stream_of_bucket(bucket) for bucket in buckets),
    )


def carried(subjects: Subjects) -> tuple[str, ...]:
    """Return what account WORKERS asks of account CA, by CA's names."""
    asked = dict.fromkeys((*_signs(subjects), *_worker(subjects)))
    return tuple(subject for subject in asked if subject != subjects.varz)


def answered(subjects: Subjects) -> tuple[str, ...]:
    """Return what root-managers answer."""
    questions = (
        subjects.roots_get,
        subjects.crl_get,
        subjects.config_get,
        subjects.status_get,
    )
    return (*questions, *subjects.commands)


def _carried(subjects: Subjects, asked: Sequence[str]) -> tuple[str, ...]:
    """Return the names under which the server checks them: permissions are checked once mapped."""
    return tuple(subjects.carried(subject) for subject in asked)


def _worker(subjects: Subjects) -> tuple[str, ...]:
    """Return what every worker does: check the server and the streams, and read the ledger."""
    return (*_check(subjects), *_read_stream(subjects.ledger_stream))


def _check(subjects: Subjects) -> tuple[str, ...]:
    infos = (f"$JS.API.STREAM.INFO.{stream}" for stream in streams_of(subjects))
    return (subjects.varz, *infos)


def _read_stream(stream: str) -> tuple[str, ...]:
    return (f"$JS.API.STREAM.MSG.GET.{stream}", f"$JS.API.DIRECT.GET.{stream}")


def _read_bucket(subjects: Subjects, bucket: str) -> tuple[str, ...]:
    """Return how a bucket is read: from the leader's copy only."""
    return (f"$JS.API.STREAM.MSG.GET.{subjects.stream_of_bucket(bucket)}",)


def _init(subjects: Subjects) -> tuple[str, ...]:
    verbs = ("CREATE", "UPDATE")  # nobody may delete or purge a stream
    changes = (
        f"$JS.API.STREAM.{verb}.{stream}" for verb in verbs for stream in streams_of(subjects)
    )
    return (*_check(subjects), *changes)


def _leader_elector(subjects: Subjects) -> tuple[str, ...]:
    return (
        subjects.authority,
        *_read_bucket(subjects, subjects.lease_bucket),
        subjects.key(subjects.lease_bucket, subjects.leader_lease()),
    )


def _root_manager(subjects: Subjects) -> tuple[str, ...]:
    return (
        subjects.authority,
        subjects.grant("*"),
        subjects.roots_log,
        subjects.reissue,
        *_read_stream(subjects.roots_stream),
        *_read_bucket(subjects, subjects.lease_bucket),
        *_read_bucket(subjects, subjects.root_keys_bucket),
        subjects.key(subjects.root_keys_bucket, ">"),
        *_read_bucket(subjects, subjects.signing_keys_bucket),
        subjects.key(subjects.signing_keys_bucket, ">"),
    )


def _signs(subjects: Subjects) -> tuple[str, ...]:
    return (
        *_worker(subjects),
        subjects.leaves("*"),
        *_read_bucket(subjects, subjects.lease_bucket),
        subjects.key(subjects.lease_bucket, subjects.signer_lease("*")),
        *_read_bucket(subjects, subjects.signing_keys_bucket),
        f"$JS.API.STREAM.MSG.GET.{subjects.submit_stream}",
        f"$JS.API.STREAM.MSG.DELETE.{subjects.submit_stream}",  # each once it is done
    )


def _reads(subjects: Subjects) -> tuple[str, ...]:
    """Return what every user of CLIENTS may ask for."""
    return (subjects.roots_get, subjects.roots_read, subjects.crl_get)


def _hears(subjects: Subjects) -> tuple[str, ...]:
    """Return what every user of CLIENTS may subscribe to."""
    return (subjects.roots_changed, subjects.reissue)
