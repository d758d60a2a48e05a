"""The operator and the accounts of a datacenter, as claims (architecture 6.1).

`CA` holds streams, buckets and who decides; `WORKERS` the signers and the replicators; `CLIENTS`
everybody else; `SYS` is the server's own. NATS checks no reply subject, and JetStream answers
wherever it is told: whoever reads a stream in the account that holds it can write what he read, or
an acknowledgement, on any subject there (a signer wrote `authority` so, and over a root's key). So
nobody is in `CA` who could not write `authority` anyway, and what crosses is exactly the imports
listed here: a reply that comes back through one stays in the account of who asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from events.base import Struct
from events.subjects import Subjects
from services.nats_access.permissions import answered, carried

_VARZ: Final = "$SYS.REQ.SERVER.PING.VARZ"
_DIRECT_GET: Final = "$JS.API.DIRECT.GET"

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
    workers: str
    workers_signing: str
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

    def exported(self) -> Crossing:
        """Return the same without the asker's name for it: the one export for all who ask."""
        return Crossing(subject=self.subject, kind=self.kind, answers=self.answers)

    def export(self) -> dict[str, Any]:
        """Return it as a claim of the account that answers."""
        answers = {"response_type": self.answers} if self.kind == "service" else {}
        return {**self._named(), **answers}

    def from_account(self, account: str, *, share: bool) -> dict[str, Any]:
        """Return it as a claim of the account that asks.

        `share`: the server tells who asked in the header `Nats-Request-Info`, whatever the asker
        wrote there.
        """
        local = {"local_subject": self.local} if self.local else {}
        shared = {"share": True} if share and self.kind == "service" else {}
        return {**self._named(), "account": account, **shared, **local}

    def _named(self) -> dict[str, Any]:
        name = self.local or self.subject
        return {"name": name, "subject": self.subject, "type": self.kind}


def from_ca_to_workers(subjects: Subjects) -> tuple[Crossing, ...]:
    """Return what WORKERS may ask or hear of CA: what its users may publish.

    A publish to a stream is a question here; its acknowledgement is the answer.
    """
    return (
        *(
            Crossing(
                subject=subject,
                kind="service",
                answers="Stream" if subject.startswith(_DIRECT_GET) else "Singleton",
                local=_if_other(subjects.carried(subject), subject),
            )
            for subject in carried(subjects)
        ),
        Crossing(subject=subjects.live, kind="stream"),
    )


def from_ca_to_clients(subjects: Subjects) -> tuple[Crossing, ...]:
    """Return what CLIENTS may ask or hear of CA.

    No service lies under a subject that anyone may subscribe to: he would hear the requests.
    """
    return (
        *(
            Crossing(
                subject=subject,
                kind="service",  # every root-manager tells its own part of the status
                answers="Stream" if subject == subjects.status_get else "Singleton",
            )
            for subject in answered(subjects)
        ),
        Crossing(
            subject=f"{_DIRECT_GET}.{subjects.ledger_stream}",
            kind="service",
            answers="Stream",
            local=subjects.audit_read,
        ),
        Crossing(
            subject=f"{_DIRECT_GET}.{subjects.roots_stream}",
            kind="service",
            answers="Stream",
            local=subjects.roots_read,
        ),
        Crossing(subject=subjects.submit_all, kind="service"),  # the answer: that it is stored
        Crossing(subject=subjects.roots_changed, kind="stream"),
        Crossing(subject=subjects.reissue, kind="stream"),
        Crossing(subject=subjects.live, kind="stream"),
    )


def from_workers_to_clients(subjects: Subjects) -> tuple[Crossing, ...]:
    """Return what CLIENTS may ask of the signers."""
    return (Crossing(subject=subjects.sign_all, kind="service"),)


def from_sys(subjects: Subjects) -> tuple[Crossing, ...]:
    """Return what CA and WORKERS may ask of the servers: how each is configured."""
    return (Crossing(subject=_VARZ, kind="service", answers="Stream", local=subjects.varz),)


def operator_claims(keys: PublicKeys) -> dict[str, Any]:
    """Return what the server trusts."""
    return {
        "type": "operator",
        "system_account": keys.sys,
        "signing_keys": [keys.operator_signing],
    }


def ca_claims(keys: PublicKeys, subjects: Subjects) -> dict[str, Any]:
    """Return account CA: JetStream, and what it answers; it maps durable requests to partitions."""
    out = dict.fromkeys(
        crossing.exported()
        for crossing in (*from_ca_to_workers(subjects), *from_ca_to_clients(subjects))
    )
    return {
        **_account(keys.ca_signing),
        "limits": {**_LIMITS, **_JETSTREAM},
        "exports": [crossing.export() for crossing in out],
        "imports": _imports(keys.sys, from_sys(subjects)),
        "mappings": _mappings(subjects.submit_mappings()),
    }


def workers_claims(keys: PublicKeys, subjects: Subjects) -> dict[str, Any]:
    """Return account WORKERS.

    It maps signing requests to partitions (architecture 3.2), and what the workers call `$JS.API`
    to the name that CA's has here.
    """
    api = {
        subject: subjects.carried(subject)
        for subject in carried(subjects)
        if subject != subjects.carried(subject)
    }
    return {
        **_account(keys.workers_signing),
        "exports": [crossing.export() for crossing in from_workers_to_clients(subjects)],
        "imports": [
            *_imports(keys.sys, from_sys(subjects)),
            *_imports(keys.ca, from_ca_to_workers(subjects)),
        ],
        "mappings": _mappings(subjects.sign_mappings() | api),
    }


def clients_claims(keys: PublicKeys, subjects: Subjects) -> dict[str, Any]:
    """Return account CLIENTS: nothing but imports."""
    return {
        **_account(keys.clients_signing),
        "imports": [
            *_imports(keys.ca, from_ca_to_clients(subjects), share=True),
            *_imports(keys.workers, from_workers_to_clients(subjects), share=True),
        ],
    }


def sys_claims(keys: PublicKeys, subjects: Subjects) -> dict[str, Any]:
    """Return account SYS: it tells how every server is configured."""
    return {
        **_account(keys.sys_signing),
        "exports": [crossing.export() for crossing in from_sys(subjects)],
    }


def _mappings(heard_of_asked: Mapping[str, str]) -> dict[str, Any]:
    return {asked: [{"subject": heard, "weight": 100}] for asked, heard in heard_of_asked.items()}


def _if_other(name: str, subject: str) -> str | None:
    return None if name == subject else name


def _account(signing_key: str) -> dict[str, Any]:
    return {"type": "account", "limits": dict(_LIMITS), "signing_keys": [signing_key]}


def _imports(
    account: str, crossings: Sequence[Crossing], *, share: bool = False
) -> list[dict[str, Any]]:
    return [crossing.from_account(account, share=share) for crossing in crossings]


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
