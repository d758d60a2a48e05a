"""Every subject, stream and bucket of the system: built and parsed here only.

Whatever grants permissions, creates streams or subscribes takes its names from `Subjects`.
"""

from __future__ import annotations

import enum
import re
from typing import Self
from urllib.parse import quote, unquote

from events.base import PARTITIONS, Struct

NAMELESS_KINDS = frozenset({"gateway", "server"})  # one identity each in a datacenter

NAME_BYTES_MAX = 128  # of a name, percent-encoded; NATS subjects stay well below its limits

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,128}")
_DATACENTER = re.compile(r"[a-z0-9_-]{1,63}")


class BadNameError(ValueError):
    """A name that is no name, or a token that is not the one way to write its name."""


def encode_name(name: str) -> str:
    """Write a name as one NATS token: all but `[A-Za-z0-9_-]` percent-encoded, in upper case.

    Raises BadNameError where the name is empty, too long, or no Unicode text.
    """
    try:
        token = quote(name, safe="", errors="strict").replace(".", "%2E").replace("~", "%7E")
    except UnicodeEncodeError as error:
        raise BadNameError(f"{name!r} cannot be written as UTF-8") from error
    if not 0 < len(token) <= NAME_BYTES_MAX:
        raise BadNameError(f"a name has 1 to {NAME_BYTES_MAX} bytes when encoded, not {len(token)}")
    return token


def decode_name(token: str) -> str:
    """Read back what `encode_name` wrote.

    Raises BadNameError for a token that does not encode back to itself (`%77eb` for `web`): an
    identity has exactly one subject.
    """
    try:
        name = unquote(token, errors="strict")
    except UnicodeDecodeError as error:
        raise BadNameError(f"{token!r} is not UTF-8") from error
    if encode_name(name) != token:
        raise BadNameError(f"{token!r} is not how a name is written; {encode_name(name)!r} is")
    return name


def check_datacenter(name: str) -> str:
    """Return the name of a datacenter, or raise BadNameError: 1-63 of `[a-z0-9_-]`."""
    if not _DATACENTER.fullmatch(name):
        raise BadNameError(f"{name!r} is no datacenter name: 1 to 63 of a-z, 0-9, _ and -")
    return name


def partition_of(*tokens: str) -> int:
    """Return the partition of `ca.<dc>.sign.<tokens>`, as nats-server's `partition(64,...)` does.

    FNV-1a, 32 bit, over the tokens joined without dots (measured; architecture 3.2).
    """
    state = 0x811C9DC5
    for byte in "".join(tokens).encode():
        state = ((state ^ byte) * 0x01000193) & 0xFFFFFFFF
    return state % PARTITIONS


def identity_tokens(kind: str, name: str) -> tuple[str, ...]:
    """Return what an identity is called in subjects; raises BadNameError."""
    return (kind,) if kind in NAMELESS_KINDS else (kind, encode_name(name))


class Family(enum.Enum):
    """The families of a ledger's subjects, each with an order of its own."""

    AUTHORITY = "authority"
    GRANT = "grant"
    LEAVES = "leaves"


class LedgerSubject(Struct):
    """A subject of the ledger, taken apart."""

    family: Family
    signer: str | None = None  # of grants and leaves

    @classmethod
    def parse(cls, subject: str, *, datacenter: str) -> Self:
        """Read a ledger subject; raises BadNameError for anything else."""
        prefix = f"ca.{datacenter}.ledger."
        family, _, signer = subject.removeprefix(prefix).partition(".")
        if not subject.startswith(prefix) or family not in {member.value for member in Family}:
            raise BadNameError(f"{subject!r} is no subject of the ledger of {datacenter}")
        if (family == Family.AUTHORITY.value) != (signer == "") or "." in subject[-1:]:
            raise BadNameError(f"{subject!r} is no subject of the ledger of {datacenter}")
        if signer and not _PLAIN.fullmatch(signer):
            raise BadNameError(f"{subject!r} names no signer")
        return cls(family=Family(family), signer=signer or None)


class SignSubject(Struct):
    """What a signing request asks for, as its subject says."""

    partition: int
    kind: str  # "service", ...
    name: str  # decoded; "" where the kind has one identity


class Subjects:
    """All names of one datacenter."""

    def __init__(self, datacenter: str) -> None:
        self.datacenter = check_datacenter(datacenter)
        dc = self.datacenter
        # the ledger
        self.ledger_stream = f"CA_LEDGER_{dc}"
        self.ledger = f"ca.{dc}.ledger.>"
        self.authority = f"ca.{dc}.ledger.authority"
        self.live = f"ca.{dc}.live.>"  # every entry once it is stored, republished by the server
        self.live_authority = f"ca.{dc}.live.authority"
        # the root-change stream
        self.roots_stream = f"CA_ROOTS_{dc}"
        self.roots_log = f"ca.{dc}.roots.log"
        self.roots_changed = f"ca.{dc}.roots.changed"
        self.roots_get = f"ca.{dc}.roots.get"
        # the CA manager: each a question that is answered
        self.config_get = f"ca.{dc}.config.get"
        self.config_set = f"ca.{dc}.config.set"
        self.config_plan = f"ca.{dc}.config.plan"  # what `config.set` would do
        self.rotation_start = f"ca.{dc}.rotation.start"
        self.rotation_abort = f"ca.{dc}.rotation.abort"
        self.roots_prune = f"ca.{dc}.roots.prune"
        self.leaves_revoke = f"ca.{dc}.leaves.revoke"
        self.crl_get = f"ca.{dc}.crl.get"
        self.status_get = f"ca.{dc}.status.get"
        self.commands = (  # what an administrator may have done
            self.config_set,
            self.config_plan,
            self.rotation_start,
            self.rotation_abort,
            self.roots_prune,
            self.leaves_revoke,
        )
        self.reissue = f"ca.{dc}.reissue"  # who is to ask for a new certificate, told live
        # buckets (streams KV_<bucket> on $KV.<bucket>.>)
        self.lease_bucket = f"CA_LEASES_{dc}"
        self.root_keys_bucket = f"CA_ROOT_KEYS_{dc}"
        self.signing_keys_bucket = f"CA_SIGNING_KEYS_{dc}"
        # what the accounts give CLIENTS other names for
        self.audit_read = f"ca.{dc}.audit.read"  # direct get of the ledger
        self.roots_read = f"ca.{dc}.roots.read"  # direct get of the root-change stream
        self.varz = "ca.varz"  # SYS's $SYS.REQ.SERVER.PING.VARZ, in account CA
        # signing requests
        self.sign_all = f"ca.{dc}.sign.>"
        self.work_all = f"ca.{dc}.work.*.>"  # the same once they are mapped to partitions
        # those that are kept until they are done
        self.submit_all = f"ca.{dc}.submit.>"
        self.submit_stream = f"CA_SUBMIT_{dc}"
        self.submitted_all = f"ca.{dc}.submitted.*.>"  # once mapped to partitions, and stored

    def grant(self, signer: str) -> str:
        """Return the subject of a signer's grants."""
        return f"ca.{self.datacenter}.ledger.grant.{signer}"

    def leaves(self, signer: str) -> str:
        """Return the subject of what a signer did."""
        return f"ca.{self.datacenter}.ledger.leaves.{signer}"

    def sign(self, kind: str, name: str = "") -> str:
        """Return the subject on which a certificate for this identity is asked for.

        `name` is "" for kinds of which a datacenter has one identity. Raises BadNameError.
        """
        return f"ca.{self.datacenter}.sign.{'.'.join(identity_tokens(kind, name))}"

    def sign_every(self, kind: str) -> str:
        """Return the subjects of all identities of a kind."""
        return f"ca.{self.datacenter}.sign.{kind}.*"

    def submit(self, kind: str, name: str = "") -> str:
        """Return the subject on which the same is asked for durably; raises BadNameError."""
        return f"ca.{self.datacenter}.submit.{'.'.join(identity_tokens(kind, name))}"

    def submit_every(self, kind: str) -> str:
        """Return the subjects of all identities of a kind, asked for durably."""
        return f"ca.{self.datacenter}.submit.{kind}.*"

    def work(self, partition: int) -> str:
        """Return what the signer of a partition subscribes to."""
        return f"ca.{self.datacenter}.work.{partition}.>"

    def sign_mappings(self) -> dict[str, str]:
        """Return the mappings from `sign` to `work` of account WORKERS (architecture 3.2)."""
        return self._partitioned("sign", "work")

    def submit_mappings(self) -> dict[str, str]:
        """Return the mappings from `submit` to `submitted` of account CA, which stores them."""
        return self._partitioned("submit", "submitted")

    def _partitioned(self, asked: str, heard: str) -> dict[str, str]:
        dc = self.datacenter
        return {
            f"ca.{dc}.{asked}.*.*": f"ca.{dc}.{heard}.{{{{partition({PARTITIONS},1,2)}}}}"
            ".{{wildcard(1)}}.{{wildcard(2)}}",
            f"ca.{dc}.{asked}.*": f"ca.{dc}.{heard}.{{{{partition({PARTITIONS},1)}}}}"
            ".{{wildcard(1)}}",
        }

    def work_of_submitted(self, subject: str) -> str:
        """Return the subject on which the same would be heard at once; raises BadNameError."""
        prefix = f"ca.{self.datacenter}.submitted."
        if not subject.startswith(prefix):
            raise BadNameError(f"{subject!r} holds no durable request of {self.datacenter}")
        return f"ca.{self.datacenter}.work.{subject.removeprefix(prefix)}"

    def parse_work(self, subject: str) -> SignSubject:
        """Read the subject of a request as a signer hears it; raises BadNameError."""
        tokens = subject.split(".")
        match tokens:
            case ["ca", dc, "work", partition, kind, token] if dc == self.datacenter:
                if kind not in NAMELESS_KINDS:
                    return SignSubject(partition=int(partition), kind=kind, name=decode_name(token))
                raise BadNameError(f"{subject!r}: there is one {kind}, and it has no name")
            case ["ca", dc, "work", partition, kind] if dc == self.datacenter:
                if kind in NAMELESS_KINDS:
                    return SignSubject(partition=int(partition), kind=kind, name="")
                raise BadNameError(f"{subject!r} names no {kind}")
            case _:
                raise BadNameError(f"{subject!r} asks for no identity")

    def carried(self, subject: str) -> str:
        """Return what account WORKERS calls a subject of account CA once it is mapped there.

        Every account has a `$JS.API` of its own, so CA's needs another name; the workers publish on
        `$JS.API` all the same, and the server maps it.
        """
        api = "$JS.API."
        if not subject.startswith(api):
            return subject
        return f"ca.{self.datacenter}.js.{subject.removeprefix(api)}"

    @staticmethod
    def stream_of_bucket(bucket: str) -> str:
        """Return the stream that a key-value bucket is."""
        return f"KV_{bucket}"

    @staticmethod
    def key(bucket: str, key: str) -> str:
        """Return the subject of a key in a bucket."""
        return f"$KV.{bucket}.{key}"

    @staticmethod
    def inbox_prefix(user: str) -> str:
        """Return the prefix of a user's private inboxes: nobody else may subscribe below it."""
        return f"_INBOX.{user}"

    @staticmethod
    def leader_lease() -> str:
        """Return the key of the leader's lease."""
        return "leader"

    @staticmethod
    def signer_lease(signer: str) -> str:
        """Return the key of a signer's lease."""
        return f"signer.{signer}"
