"""What every event is made of: the base struct, moments, and the identifiers of the field."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Literal, dataclass_transform

import msgspec
from msgspec import Meta

Moment = Annotated[datetime, Meta(tz=True)]
"""A point in time; always aware, always UTC when we write it."""

INT_MAX = 2**63 - 1  # of every whole number in an event: what databases and other languages hold

Sequence = Annotated[int, Meta(ge=0, le=INT_MAX)]
"""A message's place in the stream, counted by JetStream from 1; 0 means "before the first"."""

KeyId = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
"""SHA-256 of the DER SubjectPublicKeyInfo, lower-case hex (Consul's key id, section 2.4)."""

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]

REQUEST_ID: Final = re.compile(r"^[A-Za-z0-9_-]{1,64}$(?!\n)")
RequestId = Annotated[str, Meta(pattern=REQUEST_ID.pattern)]

Ulid = Annotated[str, Meta(pattern=r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$(?!\n)")]

Token = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}$(?!\n)")]
"""A name that is a NATS token as it stands: a datacenter, a node, the run of a signer."""

Serial = Annotated[str, Meta(pattern=r"^[0-9a-f]{1,40}$(?!\n)")]
"""A certificate's serial number, lower-case hex without leading zeros (RFC 5280, 4.1.2.2)."""

KeyType = Literal["ec", "rsa"]
Partition = Annotated[int, Meta(ge=0, lt=64)]

PARTITIONS = 64  # for the life of a ledger (architecture 3.2)


class _NamedFields(msgspec.StructMeta):
    """Makes every subclass keyword-only: msgspec hands down `frozen`, but not `kw_only`."""

    def __new__(
        mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any
    ) -> Any:
        return super().__new__(mcls, name, bases, namespace, **{"kw_only": True, **options})


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Struct(msgspec.Struct, metaclass=_NamedFields, frozen=True):
    """An immutable record whose fields are named when it is made."""


class Event(Struct):
    """One fact, as the `data` of its envelope; says nothing of who recorded it, when or where.

    A shipped type or field never changes its meaning. Unknown fields are ignored by readers. There
    is no field for a secret in any event (failures F22, F27).
    """

    TYPE: ClassVar[str]  # the envelope's `type`, for ever


def utc(moment: datetime) -> datetime:
    """Return the same moment in UTC, cut to whole seconds as X.509 does (RFC 5280, 4.1.2.5)."""
    return moment.astimezone(UTC).replace(microsecond=0)
