"""`caledger sign`: a certificate, from a key made here."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.common import (
    CliError,
    ContextOption,
    DatacenterOption,
    DataOption,
    Exit,
    JsonOption,
    UserOption,
    find,
    run,
    say,
    told,
)

if TYPE_CHECKING:
    from events.leaves import IdentityKind
    from services.cli.common import Target
    from services.cli.signing_files import SigningFiles

app = typer.Typer(
    no_args_is_help=True, help="Ask for a certificate of a service, an agent, a gateway, a server."
)


class KeyType(enum.StrEnum):
    """Keys that a leaf may have."""

    P256 = "p256"
    P384 = "p384"
    RSA2048 = "rsa2048"
    RSA3072 = "rsa3072"
    RSA4096 = "rsa4096"


OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Folder to write to (else called as the files)."),
]
CsrOption = Annotated[
    Path | None,
    typer.Option("--csr", metavar="FILE", help="A CSR made elsewhere, PEM or DER: no key is made."),
]
RequestIdOption = Annotated[
    str | None,
    typer.Option(
        "--request-id", metavar="ID", help="Ask again for what this id got, or may have got."
    ),
]
DurableOption = Annotated[
    bool,
    typer.Option(
        "--durable",
        help="Leave the request in a queue that survives restarts of everything, tell its id and "
        "end: it is signed once, as soon as it can be. No signer needs to run.",
    ),
]
FetchOption = Annotated[
    str | None,
    typer.Option(
        "--fetch",
        metavar="ID",
        help="Get what a durable request got; `pending` (exit code 1) while it waits.",
    ),
]
KeyTypeOption = Annotated[KeyType, typer.Option("--key-type", help="The key to make.")]
NoNamesOption = Annotated[
    bool,
    typer.Option(
        "--no-names",
        help="Ask for the SPIFFE id alone, without localhost and what else is usual beside it.",
    ),
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0.1, help="Seconds to wait for an answer.")
]


@app.command("service")
def service(
    name: Annotated[str, typer.Argument(help="The service to be.")],
    out: OutOption = None,
    csr: CsrOption = None,
    request_id: RequestIdOption = None,
    durable: DurableOption = False,
    fetch: FetchOption = None,
    key_type: KeyTypeOption = KeyType.P256,
    json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
    data: DataOption = None,
    context: ContextOption = None,
    user: UserOption = None,
    datacenter: DatacenterOption = None,
) -> None:
    """Get a certificate for a service: NAME.pem, NAME-key.pem and NAME-roots.pem.

    The key and the CSR are made here; the key never leaves this machine. When no answer comes in
    time, ask again with the --request-id that is told: the same key then gets its certificate,
    and never a second one. An id that has a certificate is looked up: where its key is in DIR, the
    files are written again. With --durable the key waits in DIR until its certificate is fetched.
    """
    target = find(data=data, context=context, user=user, datacenter=datacenter)
    files = _files(target, "service", name, out)
    _ask(target, files, csr, request_id, key_type, timeout, durable=durable, fetch=fetch, json=json)


@app.command("agent")
def agent(
    name: Annotated[str, typer.Argument(metavar="NODE", help="The node whose agent to be.")],
    out: OutOption = None,
    csr: CsrOption = None,
    request_id: RequestIdOption = None,
    durable: DurableOption = False,
    fetch: FetchOption = None,
    key_type: KeyTypeOption = KeyType.P256,
    no_names: NoNamesOption = False,
    json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
    data: DataOption = None,
    context: ContextOption = None,
    user: UserOption = None,
    datacenter: DatacenterOption = None,
) -> None:
    """Get a certificate for a client agent: agent.NODE.pem and so on, as for a service.

    It also has the names of its own machine (localhost, 127.0.0.1, ::1), as in Consul.
    """
    target = find(data=data, context=context, user=user, datacenter=datacenter)
    files = _files(target, "agent", name, out, names=not no_names)
    _ask(target, files, csr, request_id, key_type, timeout, durable=durable, fetch=fetch, json=json)


@app.command("gateway")
def gateway(
    out: OutOption = None,
    csr: CsrOption = None,
    request_id: RequestIdOption = None,
    durable: DurableOption = False,
    fetch: FetchOption = None,
    key_type: KeyTypeOption = KeyType.P256,
    json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
    data: DataOption = None,
    context: ContextOption = None,
    user: UserOption = None,
    datacenter: DatacenterOption = None,
) -> None:
    """Get a certificate for a mesh gateway: gateway.DC.pem and so on, as for a service.

    A datacenter's gateways have one identity.
    """
    target = find(data=data, context=context, user=user, datacenter=datacenter)
    files = _files(target, "gateway", "", out)
    _ask(target, files, csr, request_id, key_type, timeout, durable=durable, fetch=fetch, json=json)


@app.command("server")
def server(
    out: OutOption = None,
    csr: CsrOption = None,
    request_id: RequestIdOption = None,
    durable: DurableOption = False,
    fetch: FetchOption = None,
    key_type: KeyTypeOption = KeyType.P256,
    no_names: NoNamesOption = False,
    json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
    data: DataOption = None,
    context: ContextOption = None,
    user: UserOption = None,
    datacenter: DatacenterOption = None,
) -> None:
    """Get a certificate for a server: server.DC.pem and so on, as for a service.

    A datacenter's servers have one identity. It also has the names of its own machine and the one
    that peers know a datacenter's servers by.
    """
    target = find(data=data, context=context, user=user, datacenter=datacenter)
    files = _files(target, "server", "", out, names=not no_names)
    _ask(target, files, csr, request_id, key_type, timeout, durable=durable, fetch=fetch, json=json)


def _files(
    target: Target, kind: IdentityKind, name: str, out: Path | None, *, names: bool = True
) -> SigningFiles:
    from services.cli.signing_files import SigningFiles

    with told():
        return SigningFiles(name, out, kind=kind, datacenter=target.datacenter, names=names)


def _ask(
    target: Target,
    files: SigningFiles,
    csr: Path | None,
    request_id: str | None,
    key_type: KeyType,
    timeout: float,
    *,
    durable: bool,
    fetch: str | None,
    json: bool,
) -> None:
    from services.cli import signing

    if fetch is not None and (durable or request_id is not None):
        raise CliError("--fetch names the request: neither --durable nor --request-id", Exit.USAGE)
    asking = signing.Asking(target, files, csr, key_type.value, timeout, json)
    if durable:
        _submitted(run(signing.submit(asking, request_id)), json=json)
        return
    if fetch is not None:
        reply = run(signing.fetch(asking, fetch))
    else:
        reply = run(signing.sign(asking, request_id))
    if json:
        print(reply.decode())
    else:
        _summary(files, reply)


def _submitted(request_id: str, *, json: bool) -> None:
    if json:
        print(f'{{"request_id": "{request_id}"}}')
        return
    print(request_id)
    from services.cli.again import again

    hint = again("--fetch", request_id, without=("--durable", "--request-id"))
    say(f"submitted; get the certificate: {hint}")


def _summary(files: SigningFiles, reply: bytes) -> None:
    from services.cli.signing_files import read_reply
    from services.wording import moment

    issued = read_reply(reply)
    written = [files.certificate, *([files.key] if files.key_is_here else []), files.roots]
    print(issued.service_uri or issued.agent_uri or issued.kind_uri or issued.server_uri)
    print(f"  serial  {issued.serial_number}")
    print(f"  valid   {moment(issued.valid_after)} to {moment(issued.valid_before)}")
    print(f"  ledger  sequence {issued.ledger_sequence}, event {issued.event_id}")
    print(f"  files   {', '.join(map(str, written))}")
    say(
        f"check it: openssl verify -x509_strict -CAfile {files.roots} "
        f"-untrusted {files.certificate} {files.certificate}"
    )
