"""What the commands of `caledger ca` share: a connection, its deadline, what comes and goes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from services import once_json
from services.administration_client import AdministrationClient, new_request_id
from services.asking import NoAnswerError
from services.cli.again import again
from services.cli.common import CliError, Exit, say
from services.cli.errors import judge
from services.consul_names import plain
from services.outcomes import KEY_REFERENCE
from services.refusals import RefusedError

if TYPE_CHECKING:
    from services.cli.common import Target
    from services.client import CaClient

A = TypeVar("A")

STDIN: Final = Path("-")
_LOOK: Final = "`caledger status` says whether anybody leads"
_OPTIONS: Final = {  # by what the CA says, some of it in Consul's words
    "You can try again with ForceWithoutCrossSigning": (
        "here that is --force-without-cross-signing"
    ),
    "prune it all the same with force": "here that is --force",
}
LEAST_SECONDS: Final = 0.1  # for a question, however late it is


class Session:
    """A connection as somebody who administrates, for one command of the command line."""

    def __init__(self, client: CaClient, deadline: float, request_id: str | None) -> None:
        self.client = client
        self.ca = AdministrationClient(client)
        self.request_id = request_id or new_request_id()
        self.typed: Sequence[str] | None = None  # what to type to say the same again
        self._deadline = deadline

    @property
    def left(self) -> float:
        """Return how many seconds the command has left."""
        return max(self._deadline - asyncio.get_running_loop().time(), LEAST_SECONDS)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time that the block takes."""
        left = self.left
        try:
            yield
        finally:
            self._deadline = asyncio.get_running_loop().time() + left

    @asynccontextmanager
    async def commanding(self) -> AsyncIterator[None]:
        """Tell, where no answer comes, how to learn what became of a command."""
        try:
            yield
        except NoAnswerError as error:
            judged = judge(error)
            assert judged is not None, "it is told"
            raise CliError(
                f"{judged}; {_LOOK}; it may have been done all the same: this tells, and does it "
                f"once: {again('--request-id', self.request_id, typed=self.typed)}",
                judged.code,
            ) from error


@asynccontextmanager
async def session(
    target: Target, *, timeout: float, request_id: str | None = None
) -> AsyncIterator[Session]:
    """Be connected until the block ends; `timeout` seconds are for all of it."""
    deadline = asyncio.get_running_loop().time() + timeout
    async with target.client(timeout=timeout) as client:
        try:
            yield Session(client, deadline, request_id)
        except NoAnswerError as error:
            raise NoAnswerError(f"{error}; {_LOOK}") from error
        except RefusedError as error:
            if (hint := option_for(error.message)) is None:
                raise
            raise CliError(f"{judge(error)}; {hint}", Exit.FAULT) from error


def option_for(refusal: str) -> str | None:
    """Return how a refusal's remedy is said on the command line, None where it has none there."""
    return next((hint for words, hint in _OPTIONS.items() if words in refusal), None)


def read(answer: bytes, kind: type[A]) -> A:
    """Read what a root-manager answered; raises CliError."""
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.MsgspecError, ValueError) as error:
        raise CliError(f"an answer that cannot be read: {error}", Exit.FAULT) from error


def read_configuration(file: Path | None) -> dict[str, Any]:
    """Read a configuration, in whichever of Consul's forms; raises CliError with Consul's texts.

    A private key in a file that others can read is warned of.
    """
    if file is None:
        raise CliError("The -config-file flag is required", Exit.USAGE)
    try:
        text = sys.stdin.buffer.read() if file == STDIN else file.read_bytes()
    except OSError as error:
        raise CliError(
            f"Error reading config file: {file}: {error.strerror}", Exit.USAGE
        ) from error
    try:
        configuration = msgspec.convert(once_json.decode(text), dict[str, Any])
    except (msgspec.MsgspecError, ValueError) as error:
        raise CliError(f"Error parsing config file: {file}: {error}", Exit.USAGE) from error
    if file != STDIN and _has_key(configuration) and (mode := file.stat().st_mode) & 0o077:
        say(
            f"warning: {file} holds the CA's private key, and its mode {mode & 0o777:04o} lets "
            f"others read it: chmod 600 {file}"
        )
    return configuration


def says(configuration: Mapping[str, Any], name: str) -> Any:
    """Return what a configuration says under a name, however that is written."""
    return next(
        (value for spelt, value in configuration.items() if plain(spelt) == plain(name)), None
    )


def _has_key(configuration: Mapping[str, Any]) -> bool:
    config = says(configuration, "Config")
    key = says(config, "PrivateKey") if isinstance(config, dict) else None
    return bool(key) and not (isinstance(key, str) and key.startswith(KEY_REFERENCE))
