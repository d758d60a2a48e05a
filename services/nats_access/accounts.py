"""The operator and the three accounts of a datacenter, as claims (architecture 6.1).

`CA` holds streams, buckets and workers; `CLIENTS` everybody else; `SYS` is the server's own. NATS
checks no reply subject, so what crosses from CLIENTS to CA is exactly the imports listed here:
nothing that a client names can be written into CA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from events.base import Struct
from events.subjects import Subjects

VARZ: Final = "$SYS.REQ.SERVER.PING.VARZ"

_UNLIMITED: Final = -1
_LIMITS: Final = {
    **dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), _UNLIMITED),
    "wildcards": True,
    "disallow_bearer": True,  # a token alone is nobody: the seed must be shown
}
_JETSTREAM: Final = dict.fromkeys(
    ("mem_storage", "disk_storage", "streams", "consumer"), _UNLIMITED
)


class PublicKeys(Struct):
    """Public keys of operator and accounts: each an identity, and a key that signs for it."""

    operator: str
    operator_signing: str
    ca: str
    ca_signing: str
    clients: str
    clients_signing: str
    sys: str
    sys_signing: str


class Crossing(Struct):
    """What one account may ask or hear of another."""

    subject: str  # in the account that answers
    kind: Literal["service", "stream"]
    answers: Literal["Singleton", "Stream"] = "Singleton"  # Stream: more than one message
    local: str | None = None  # its name in the account that asks, where that differs

    def export(self) -> dict[str, Any]:
        """Return it as a claim of the account that answers."""
        answers = {"response_type": self.answers} if self.kind == "service" else {}
        return {**self._named(), **answers}

    def from_account(self, account: str) -> dict[str, Any]:
        """Return it as a claim of the account that asks.

        `share`: the server tells who asked in the header `Nats-Request-Info`, whatever the asker
        wrote there.
        """
        local = {"local_subject": self.local} if self.local else {}
        shared = {"share": True} if self.kind == "service" else {}
        return {**self._named(), "account": account, **shared, **local}

    def _named(self) -> dict[str, Any]:
        name = self.local or self.subject
        return {"name": name, "subject": self.subject, "type": self.kind}


def crossings(subjects: Subjects) -> tuple[Crossing, ...]:
    """Return all that CLIENTS may ask or hear of CA.

    No service lies under a subject that anyone may subscribe to: he would hear the requests.
    """
    direct_get = "$JS.API.DIRECT.GET"
    return (
        Crossing(subject=subjects.sign_all, kind="service"),
        Crossing(subject=subjects.roots_get, kind="service"),
        Crossing(
            subject=f"{direct_get}.{subjects.ledger_stream}",
            kind="service",
            answers="Stream",
            local=subjects.audit_read,
        ),
        Crossing(
            subject=f"{direct_get}.{subjects.roots_stream}",
            kind="service",
            answers="Stream",
            local=subjects.roots_read,
        ),
        Crossing(subject=subjects.roots_changed, kind="stream"),
        Crossing(subject=subjects.live, kind="stream"),
    )


def operator_claims(keys: PublicKeys) -> dict[str, Any]:
    """Return what the server trusts."""
    return {
        "type": "operator",
        "system_account": keys.sys,
        "signing_keys": [keys.operator_signing],
    }


def ca_claims(keys: PublicKeys, subjects: Subjects) -> dict[str, Any]:
    """Return account CA: JetStream, its exports, and the mapping of requests to partitions."""
    mappings = {
        asked: [{"subject": heard, "weight": 100}]
        for asked, heard in subjects.sign_mappings().items()
    }
    return {
        "type": "account",
        "limits": {**_LIMITS, **_JETSTREAM},
        "signing_keys": [keys.ca_signing],
        "exports": [crossing.export() for crossing in crossings(subjects)],
        "imports": [_varz(subjects).from_account(keys.sys)],
        "mappings": mappings,
    }


def clients_claims(
    keys: PublicKeys, subjects: Subjects, *, revoked: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Return account CLIENTS; `revoked`: users' keys, and until when their tokens are void."""
    claims = {
        "type": "account",
        "limits": dict(_LIMITS),
        "signing_keys": [keys.clients_signing],
        "imports": [crossing.from_account(keys.ca) for crossing in crossings(subjects)],
    }
    return {**claims, "revocations": dict(revoked)} if revoked else claims


def sys_claims(keys: PublicKeys, subjects: Subjects) -> dict[str, Any]:
    """Return account SYS: it tells CA how every server is configured."""
    return {
        "type": "account",
        "limits": dict(_LIMITS),
        "signing_keys": [keys.sys_signing],
        "exports": [_varz(subjects).export()],
    }


def user_claims(
    account: str, *, publish: Sequence[str], subscribe: Sequence[str]
) -> dict[str, Any]:
    """Return a user of an account, signed by one of the account's signing keys.

    There is no `resp`: with it a worker would answer on whatever subject an asker names.
    """
    return {
        "type": "user",
        "issuer_account": account,
        "pub": {"allow": list(publish)},
        "sub": {"allow": list(subscribe)},
        "subs": _UNLIMITED,
        "data": _UNLIMITED,
        "payload": _UNLIMITED,
    }


def _varz(subjects: Subjects) -> Crossing:
    return Crossing(subject=VARZ, kind="service", answers="Stream", local=subjects.varz)
