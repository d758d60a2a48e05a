"""`caledger sign`: a certificate, from a key made here."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from services.cli.common import (
    CliError,
    ContextOption,
    DatacenterOption,
    DataOption,
    JsonOption,
    UserOption,
    find,
    run,
    say,
    told,
)

if TYPE_CHECKING:
    from services.cli.common import Target
    from services.cli.signing_files import SigningFiles
    from services.client import CaClient

app = typer.Typer(no_args_is_help=True, help="Ask for a certificate.")

# What is wrong with the request itself, so that no signer ever says yes to it.
_NEVER_ISSUED: Final = frozenset(
    {
        *("malformed", "too_large", "bad_signature", "uri_count", "email_san", "san_not_allowed"),
        *("identity_mismatch", "wrong_trust_domain", "wrong_datacenter", "key_not_allowed"),
        *("bad_name", "bad_request_id"),
    }
)
_ASK_AGAIN: Final = frozenset({"rate_limited", "not_ready", "pending", "internal"})


@app.callback()
def _group() -> None:
    """Keep `service` a subcommand: other kinds of identity follow."""


class KeyType(enum.StrEnum):
    """Keys that a leaf may have."""

    P256 = "p256"
    P384 = "p384"
    RSA2048 = "rsa2048"
    RSA3072 = "rsa3072"
    RSA4096 = "rsa4096"


@app.command("service")
def service(
    name: Annotated[str, typer.Argument(help="The service to be.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write to (else NAME).")
    ] = None,
    csr: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A CSR made elsewhere, PEM or DER: no key is made."),
    ] = None,
    request_id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Ask again for what this id got, or may have got."),
    ] = None,
    key_type: Annotated[KeyType, typer.Option(help="The key to make.")] = KeyType.P256,
    json: JsonOption = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer.")] = 10.0,
    data: DataOption = None,
    context: ContextOption = None,
    user: UserOption = None,
    datacenter: DatacenterOption = None,
) -> None:
    """Get a certificate for a service: NAME.pem, NAME-key.pem and NAME-roots.pem.

    The key and the CSR are made here; the key never leaves this machine. When no answer comes in
    time, ask again with the --request-id that is told: the same key then gets its certificate,
    and never a second one. An id that has a certificate is looked up: where its key is in DIR, the
    files are written again.
    """
    from services.cli.signing_files import SigningFiles

    with told():
        files = SigningFiles(name, out)
    target = find(data=data, context=context, user=user, datacenter=datacenter)
    reply = run(_sign(target, files, csr, request_id, key_type.value, timeout, json=json))
    if json:
        print(reply.decode())
    else:
        _summary(files, reply, own_csr=csr is not None)


async def _sign(
    target: Target,
    files: SigningFiles,
    csr_file: Path | None,
    request_id: str | None,
    key_type: str,
    timeout: float,
    *,
    json: bool,
) -> bytes:
    import asyncio

    from services import error_reply
    from services.asking import NoAnswerError, RefusedLateError
    from services.cli.errors import judge
    from services.clock import SystemClock, SystemEntropy
    from services.refusals import RefusedError
    from services.transport import NotPermittedError

    deadline = asyncio.get_running_loop().time() + timeout

    def left() -> float:
        return max(deadline - asyncio.get_running_loop().time(), 0.1)

    async with target.client(timeout=timeout) as client:
        files.finish()
        bundle = await client.stored_roots(timeout=left())
        chosen = request_id or SystemEntropy().ulid(SystemClock().now())
        try:
            if csr_file is None and request_id is not None and not files.waits(request_id):
                known = await _look_up(client, files.name, request_id, timeout=left())
                if known is not None:
                    files.install_known(request_id, known, bundle)
                    return known
            if csr_file is not None:
                csr = files.read_csr(csr_file)
            else:
                csr = files.pending(chosen, bundle, target.datacenter, key_type)
            reply = await client.sign(files.name, csr, request_id=chosen, timeout=left())
        except NotPermittedError:
            if request_id is None:
                files.forget(chosen)  # no signer was asked
            raise
        except (NoAnswerError, RefusedError) as error:
            if json and isinstance(error, RefusedError):
                print(error_reply.encode(error)[0].decode())
            if isinstance(error, RefusedError) and error.code not in _ASK_AGAIN:
                asked_before = request_id is not None or isinstance(error, RefusedLateError)
                if error.code in _NEVER_ISSUED and not asked_before:
                    files.forget(chosen)  # no certificate can ever come for its key
                raise
            judged = judge(error)
            assert judged is not None, "both are told"
            raise CliError(
                f"{judged}; to ask again for the same certificate: --request-id {chosen}",
                judged.code,
            ) from error
        files.install(chosen, csr, reply, bundle)
        return reply


async def _look_up(
    client: CaClient, service: str, request_id: str, *, timeout: float
) -> bytes | None:
    """Return the reply that an id got, None where it has got none."""
    from services.refusals import RefusedError

    try:
        return await client.lookup(service, request_id=request_id, timeout=timeout)
    except RefusedError as error:
        if error.code == "not_found":
            return None
        raise


def _summary(files: SigningFiles, reply: bytes, *, own_csr: bool) -> None:
    from services.cli.signing_files import read_reply

    issued = read_reply(reply)
    written = [files.certificate, *([] if own_csr else [files.key]), files.roots]
    form = "%Y-%m-%d %H:%M:%SZ"
    print(issued.service_uri)
    print(f"  serial  {issued.serial_number}")
    print(f"  valid   {issued.valid_after:{form}} to {issued.valid_before:{form}}")
    print(f"  ledger  sequence {issued.ledger_sequence}, event {issued.event_id}")
    print(f"  files   {', '.join(map(str, written))}")
    say(
        f"check it: openssl verify -x509_strict -CAfile {files.roots} "
        f"-untrusted {files.certificate} {files.certificate}"
    )
