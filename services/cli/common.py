"""What all commands share: exit codes, how errors are told, and how the server is found."""

from __future__ import annotations

import enum
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from services.client import CaClient
    from services.config import NodeConfig

T = TypeVar("T")

DEFAULT_DATA: Final = Path(".caledger")
DEFAULT_DATACENTER: Final = "dc1"
CONNECT_SECONDS_MAX: Final = 5.0
WIDTH_WITHOUT_TERMINAL: Final = 10_000


class Exit(enum.IntEnum):
    """What every command ends with."""

    OK = 0
    FAULT = 1  # refused, or a fault found
    USAGE = 2
    UNREACHABLE = 3  # or no answer in time
    NOT_PERMITTED = 4


class CliError(Exception):
    """The command ends here: one line for the user, and how it ends."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.code = code


DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Folder of a caledger node (else CALEDGER_DATA, else NATS_URL, else ./.caledger).",
        rich_help_panel="Where",
    ),
]
ContextOption = Annotated[
    str | None,
    typer.Option(
        "--context",
        metavar="NAME",
        help="Context of the `nats` command line (in XDG_CONFIG_HOME/nats/context).",
        rich_help_panel="Where",
    ),
]
UserOption = Annotated[
    str | None,
    typer.Option(
        "--user",
        metavar="NAME",
        help="Which user of the node's folder to be.",
        rich_help_panel="Where",
    ),
]
DatacenterOption = Annotated[
    str | None,
    typer.Option(
        "--datacenter",
        metavar="NAME",
        help="Datacenter to speak to (else the folder's own, else dc1).",
        rich_help_panel="Where",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, as programs want it.")]
FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Folder of the node (else CALEDGER_DATA, else ./.caledger).",
    ),
]


def say(message: str) -> None:
    """Write a line for people, where it does not mix with output for programs."""
    print(message, file=sys.stderr, flush=True)


def show(table: Table) -> None:
    """Print a table: as wide as it is, where no terminal sets a width."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL).print(table)


def run(work: Coroutine[Any, Any, T], *, talkative: bool = False) -> T:
    """Run a command's work; typed errors of whatever it uses become a CliError.

    `talkative`: for commands that wait until Ctrl-C or SIGTERM, which is how they end; meanwhile
    the connection's troubles are told as they happen.
    """
    import asyncio

    from services.process import log_to_stderr

    log_to_stderr(level="warning" if talkative else "critical")
    if talkative:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl-C does
    try:
        with told():
            return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(Exit.OK if talkative else 130) from None


@contextmanager
def told() -> Iterator[None]:
    """Turn the typed errors of what is called into one line and an exit code."""
    from services.cli.errors import judge

    try:
        yield
    except Exception as error:
        judged = judge(error)
        if judged is None:
            raise
        raise judged from error


def node_of(data: Path | None) -> NodeConfig:
    """Return the configuration of a node's folder; raises CliError."""
    from services import config

    base = folder(data)
    with told():
        return config.load(_node_file(base, "--data or CALEDGER_DATA"))


def folder(data: Path | None) -> Path:
    """Return the node's folder: named, or from CALEDGER_DATA, or the default."""
    named = os.environ.get("CALEDGER_DATA")
    return data or (Path(named) if named else DEFAULT_DATA)


def _node_file(base: Path, otherwise: str) -> Path:
    """Return the caledger.toml of a folder; raises CliError where the folder is not a node's."""
    file = base / "caledger.toml"
    if not file.exists():
        raise CliError(
            f"{base} is no folder of a caledger node: start one with `caledger dev --data {base}`, "
            f"or say where it is: {otherwise}",
            Exit.USAGE,
        )
    return file


class Target:
    """A server, and whom to be there; `source`: the environment variable that named it."""

    def __init__(
        self,
        servers: tuple[str, ...],
        creds: Path | None,
        ca: Path | None,
        datacenter: str,
        *,
        source: str | None = None,
    ) -> None:
        self.servers = servers
        self.creds = creds
        self.ca = ca
        self.datacenter = datacenter
        self.source = source

    @asynccontextmanager
    async def client(self, *, timeout: float = CONNECT_SECONDS_MAX) -> AsyncIterator[CaClient]:
        """Be connected until the block ends, after `timeout` seconds at most, for each server.

        Raises TransportError, BadNameError, CliError.
        """
        from events.subjects import check_datacenter
        from services.client import CaClient

        check_datacenter(self.datacenter)  # before there is a connection to close
        with self._sourced():
            client = await CaClient.connect(
                self.servers,
                datacenter=self.datacenter,
                creds=self.creds,
                ca=self.ca,
                timeout=min(timeout, CONNECT_SECONDS_MAX),
            )
            try:
                yield client
            finally:
                await client.close()

    @contextmanager
    def _sourced(self) -> Iterator[None]:
        """Tell, of an environment variable that is easily forgotten, that it named the server."""
        from events.log import UnreachableError
        from services.asking import NoAnswerError
        from services.cli.errors import judge
        from services.transport import NotPermittedError, TransportError

        try:
            yield
        except (TransportError, NoAnswerError, UnreachableError) as error:
            judged = judge(error)
            if self.source is None or judged is None or judged.code is Exit.USAGE:
                raise
            if isinstance(error, NotPermittedError) and self.creds is None:
                raise CliError(
                    f"not permitted: {', '.join(self.servers)} (from {self.source}) wants "
                    "credentials, and NATS_CREDS is not set",
                    Exit.NOT_PERMITTED,
                ) from error
            raise CliError(f"{judged} (server from {self.source})", judged.code) from error


def find(
    *,
    data: Path | None,
    context: str | None,
    user: str | None,
    datacenter: str | None,
    default_user: str = "admin",
    environment: Mapping[str, str] = os.environ,
) -> Target:
    """Find the server and the credentials.

    In this order: `--data` or `--context`, CALEDGER_DATA, NATS_URL (with NATS_CREDS and NATS_CA),
    the default folder. Raises CliError, also where `user` names one and no folder is looked into.
    """
    if data is not None and context is not None:
        raise CliError("--data and --context each name a server: give one", Exit.USAGE)
    if context is not None:
        if user is not None:
            raise CliError(
                f"--context {context} names its own credentials: leave out --user", Exit.USAGE
            )
        return _from_context(_contexts(environment) / f"{context}.json", datacenter)
    if data is None and not environment.get("CALEDGER_DATA"):
        if environment.get("NATS_URL"):
            if user is not None:
                raise CliError(
                    "--user names a user of a node's folder, and NATS_URL is set: with it, who you "
                    "are is what NATS_CREDS says; unset NATS_URL, or name the folder with --data",
                    Exit.USAGE,
                )
            return _from_environment(environment, datacenter)
        for name in ("NATS_CREDS", "NATS_CA"):
            if environment.get(name):
                raise CliError(
                    f"{name} is set and NATS_URL is not: say which server it is for, or unset it",
                    Exit.USAGE,
                )
    base = data or Path(environment.get("CALEDGER_DATA") or DEFAULT_DATA)
    return _from_folder(base, user or default_user, datacenter)


def _from_folder(base: Path, user: str, datacenter: str | None) -> Target:
    from services import config

    node_file = _node_file(base, "--data, --context, or NATS_URL and NATS_CREDS")
    file = base / "nats" / "context" / f"{user}.json"
    if not file.exists():
        raise CliError(
            f"there are no credentials of a user {user} in {base}: `caledger user list` names all "
            f"users, `caledger user add {user}` makes one",
            Exit.USAGE,
        )
    with told():
        return _from_context(file, datacenter or config.load(node_file).datacenter)


def _from_context(file: Path, datacenter: str | None) -> Target:
    import json

    try:
        context = json.loads(file.read_bytes())
        servers = tuple(str(context["url"]).split(","))
    except OSError as error:
        raise CliError(f"{file}: {error.strerror}", Exit.USAGE) from error
    except (ValueError, TypeError, KeyError) as error:
        raise CliError(
            f"{file} is no context of the nats command line: {error}", Exit.USAGE
        ) from error
    creds = _path(context.get("creds"), file.parent)
    return Target(
        servers=servers,
        creds=creds,
        ca=_path(context.get("ca"), file.parent),
        datacenter=datacenter or _datacenter_of(creds),
    )


def _from_environment(environment: Mapping[str, str], datacenter: str | None) -> Target:
    here = Path()
    creds = _path(environment.get("NATS_CREDS"), here)
    return Target(
        servers=tuple(environment["NATS_URL"].split(",")),
        creds=creds,
        ca=_path(environment.get("NATS_CA"), here),
        datacenter=datacenter or _datacenter_of(creds),
        source="NATS_URL",
    )


def _datacenter_of(creds: Path | None) -> str:
    """Return the datacenter whose subjects a user may use, the default where that is not told."""
    from services.nats_access import jwt

    try:
        allowed = jwt.read_creds(creds).nats["pub"]["allow"] if creds is not None else []
        tokens = [str(subject).split(".") for subject in allowed]
    except (jwt.TokenError, KeyError, TypeError):
        return DEFAULT_DATACENTER
    return next(
        (token[1] for token in tokens if token[0] == "ca" and token[2:]), DEFAULT_DATACENTER
    )


def _contexts(environment: Mapping[str, str]) -> Path:
    home = environment.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "nats" / "context"


def _path(value: object, base: Path) -> Path | None:
    return base / Path(str(value)).expanduser() if value else None
