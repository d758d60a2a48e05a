"""Reading a signing request: the subject says who, the body with which CSR; nothing is trusted."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec

from events.base import REQUEST_ID, Struct
from events.leaves import IDENTITY_KINDS, IdentityKind
from events.subjects import BadNameError, SignSubject, Subjects, identity_tokens, partition_of
from services.pki import csr
from services.refusals import RefusedError, clip
from services.streams import SUBMIT_MESSAGE_BYTES_MAX

BODY_BYTES_MAX: Final = 64 * 1024

_BLANK: Final = b" \t\r\n"


class SignRequest(Struct):
    """What is asked for, in terms that can be relied on; the CSR itself is not checked yet."""

    kind: IdentityKind
    name: str  # of the service, of the node; "" where the kind has one identity
    partition: int
    request_id: str | None
    csr_der: bytes | None  # None: only a look-up of what the request id got before


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    csr: object = None
    request_id: object = None


class _Told(msgspec.Struct):
    request_id: object = None


_BODY: Final = msgspec.json.Decoder(_Body)
_TOLD: Final = msgspec.json.Decoder(_Told)


def read_request(subjects: Subjects, subject: str, body: bytes) -> SignRequest:
    """Read a request as a signer hears it: JSON `{csr, request_id}`, or a bare PEM or DER CSR.

    Raises RefusedError: `too_large` before anything is parsed, `bad_name`, `malformed`,
    `bad_request_id`.
    """
    if len(body) > BODY_BYTES_MAX:
        raise RefusedError(
            "too_large", f"a request has at most {BODY_BYTES_MAX} bytes; this one has more"
        )
    kind, name, partition = read_name(subjects, subject)
    if body.lstrip(_BLANK).startswith(b"{"):
        csr_pem, request_id = _read_json(body)
        csr_der = None if csr_pem is None else csr.read(csr_pem)
    else:
        csr_der, request_id = csr.read(body), None
    return SignRequest(
        kind=kind, name=name, partition=partition, request_id=request_id, csr_der=csr_der
    )


def check_durable(request: SignRequest) -> None:
    """Raise RefusedError for what cannot be kept: without a request id nobody could fetch it."""
    if request.request_id is None:
        raise RefusedError("bad_request_id", "a durable request has a request id")
    if request.csr_der is None:
        raise RefusedError("malformed", "a durable request has a csr")


@lru_cache(maxsize=4_096)
def read_name(subjects: Subjects, subject: str) -> tuple[IdentityKind, str, int]:
    """Return kind, name and partition that a subject asks for; raises RefusedError `bad_name`."""
    try:
        asked = subjects.parse_work(subject)
    except BadNameError as error:
        raise RefusedError("bad_name", clip(str(error))) from error
    for kind in IDENTITY_KINDS:
        if asked.kind == kind:
            _check_partition(subject, asked)
            return kind, asked.name, asked.partition
    raise RefusedError("bad_name", clip(f"{asked.kind!r} is no kind of identity: {_choice()} is"))


def _check_partition(subject: str, asked: SignSubject) -> None:
    """See that the server mapped it: two partitions of one identity would have two signers."""
    if asked.partition != partition_of(*identity_tokens(asked.kind, asked.name)):
        raise RefusedError("bad_name", clip(f"{subject!r} is not the partition of this identity"))


def read_request_id(body: bytes) -> str | None:
    """Return the request id of a body that was refused, where there is a well-formed one.

    Of a durable request also where it was refused as too large: who sent it fetches that by its id.
    """
    if len(body) > SUBMIT_MESSAGE_BYTES_MAX:  # none is in their queue
        return None
    try:
        told = _TOLD.decode(body).request_id
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return told if isinstance(told, str) and REQUEST_ID.fullmatch(told) else None


def _read_json(body: bytes) -> tuple[bytes | None, str | None]:
    try:
        told = _BODY.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RefusedError(
            "malformed", clip(f'a JSON body is {{"csr": PEM, "request_id": ID}}: {error}')
        ) from error
    if told.csr is None and told.request_id is None:
        raise RefusedError("malformed", "neither csr nor request_id is given")
    if told.csr is not None and not isinstance(told.csr, str):
        raise RefusedError("malformed", "csr is not a string with a PEM")
    if told.request_id is not None and not (
        isinstance(told.request_id, str) and REQUEST_ID.fullmatch(told.request_id)
    ):
        raise RefusedError("bad_request_id", "a request id has 1 to 64 of A-Z, a-z, 0-9, _ and -")
    return None if told.csr is None else told.csr.encode(), told.request_id


def _choice() -> str:
    return " or ".join(IDENTITY_KINDS)
