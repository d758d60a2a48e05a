"""What `caledger sign` does: ask now, ask durably, or fetch what a durable request got."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services import error_reply
from services.administration_client import new_request_id
from services.asking import NoAnswerError, RefusedLateError
from services.cli.again import again
from services.cli.common import CliError, Target
from services.cli.errors import judge
from services.cli.signing_files import SigningFiles
from services.client import CaClient
from services.refusals import RefusedError
from services.transport import NotPermittedError

# What is wrong with the request itself, so that no signer ever says yes to it.
_NEVER_ISSUED: Final = frozenset(
    {
        *("malformed", "too_large", "bad_signature", "uri_count", "email_san", "san_not_allowed"),
        *("identity_mismatch", "wrong_trust_domain", "wrong_datacenter", "key_not_allowed"),
        *("bad_name", "bad_request_id"),
    }
)
_ASK_AGAIN: Final = frozenset({"rate_limited", "not_ready", "pending", "internal"})


@dataclass(frozen=True)
class Asking:
    """Whose certificate is asked for, where, and with which key."""

    target: Target
    files: SigningFiles
    csr_file: Path | None  # None: a key is made here
    key_type: str
    timeout: float  # seconds, for all of it
    json: bool


async def sign(asking: Asking, request_id: str | None) -> bytes:
    """Return the CA's answer, with the files in place; raises CliError, and what the client does.

    The key of a request that got no definite answer is kept, and its id told.
    """
    files, left = asking.files, _deadline(asking.timeout)
    async with asking.target.client(timeout=asking.timeout) as client:
        files.finish()
        bundle = await client.stored_roots(timeout=left())
        chosen = request_id or new_request_id()
        try:
            if asking.csr_file is None and request_id is not None and not files.waits(request_id):
                known = await _look_up(client, files, request_id, timeout=left())
                if known is not None:
                    files.install_known(request_id, known, bundle)
                    return known
            csr = _csr(asking, chosen, bundle)
            reply = await client.sign(
                files.name, csr, request_id=chosen, kind=files.kind, timeout=left()
            )
        except NotPermittedError:
            if request_id is None:
                files.forget(chosen)  # no signer was asked
            raise
        except (NoAnswerError, RefusedError) as error:
            _tell(asking, error)
            if isinstance(error, RefusedError) and error.code not in _ASK_AGAIN:
                asked_before = request_id is not None or isinstance(error, RefusedLateError)
                if error.code in _NEVER_ISSUED and not asked_before:
                    files.forget(chosen)  # no certificate can ever come for its key
                raise
            hint = again("--request-id", chosen)
            raise _again(error, f"to ask again for the same certificate: {hint}") from error
        files.install(chosen, csr, reply, bundle)
        return reply


async def submit(asking: Asking, request_id: str | None) -> str:
    """Leave the request in the queue of durable ones, its key waiting here; return its id.

    Raises CliError, and what the client does.
    """
    files, left = asking.files, _deadline(asking.timeout)
    async with asking.target.client(timeout=asking.timeout) as client:
        files.finish()
        bundle = await client.stored_roots(timeout=left())
        chosen = request_id or new_request_id()
        csr = _csr(asking, chosen, bundle)
        files.keep_csr(chosen, csr)
        try:
            await client.submit(files.name, csr, request_id=chosen, kind=files.kind, timeout=left())
        except NotPermittedError:
            if request_id is None:
                files.forget(chosen)  # nothing was submitted
            raise
        except (NoAnswerError, RefusedError) as error:
            _tell(asking, error)
            hint = again("--durable", "--request-id", chosen, without=("--durable", "--request-id"))
            raise _again(error, f"to submit the same again: {hint}") from error
    return chosen


async def fetch(asking: Asking, request_id: str) -> bytes:
    """Return what a durable request got, with the files in place.

    Raises CliError, and what the client does: RefusedError where it will never get any.
    """
    files, left = asking.files, _deadline(asking.timeout)
    async with asking.target.client(timeout=asking.timeout) as client:
        files.finish()
        csr = files.kept_csr(request_id)
        if asking.csr_file is not None:
            csr = files.read_csr(asking.csr_file)
        bundle = await client.stored_roots(timeout=left())
        try:
            reply = await client.lookup(
                files.name, request_id=request_id, kind=files.kind, timeout=left()
            )
        except (NoAnswerError, RefusedError) as error:
            _tell(asking, error)
            if isinstance(error, RefusedError) and error.code not in _ASK_AGAIN:
                if error.code in _NEVER_ISSUED:
                    files.forget(request_id)  # the ledger says so: for ever
                raise
            hint = again("--fetch", request_id, without=("--fetch",))
            raise _again(error, f"to ask again: {hint}") from error
    if csr is None:
        files.install_known(request_id, reply, bundle)
    else:
        files.install(request_id, csr, reply, bundle)
    return reply


def _csr(asking: Asking, request_id: str, bundle: bytes) -> str:
    if asking.csr_file is not None:
        return asking.files.read_csr(asking.csr_file)
    return asking.files.pending(request_id, bundle, asking.target.datacenter, asking.key_type)


async def _look_up(
    client: CaClient, files: SigningFiles, request_id: str, *, timeout: float
) -> bytes | None:
    """Return the reply that an id got, None where it has got none."""
    try:
        return await client.lookup(
            files.name, request_id=request_id, kind=files.kind, timeout=timeout
        )
    except RefusedError as error:
        if error.code == "not_found":
            return None
        raise


def _tell(asking: Asking, error: Exception) -> None:
    """Print a refusal as the CA sent it, for programs."""
    if asking.json and isinstance(error, RefusedError):
        print(error_reply.encode(error)[0].decode())


def _again(error: Exception, how: str) -> CliError:
    judged = judge(error)
    assert judged is not None, "both are told"
    return CliError(f"{judged}; {how}", judged.code)


def _deadline(timeout: float) -> Callable[[], float]:
    """Return what says how many seconds are left."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    return lambda: max(deadline - loop.time(), 0.1)
