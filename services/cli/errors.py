"""Which of our errors ends a command how."""

from __future__ import annotations

import errno
import os
import re
from typing import Final

from events.catalogue import UnknownEventTypeError
from events.log import LedgerError, UnreachableError
from events.subjects import BadNameError
from services import asking, config, streams, transport
from services.cli.common import CliError, Exit
from services.keys.interface import KeyStoreError, WrongKeyEncryptionKeyError
from services.keys.kek import KeyEncryptionKeyError
from services.nats_access.contexts import ContextError
from services.nats_access.jwt import TokenError
from services.nats_access.permissions import BadGrantError
from services.nats_access.provision import ProvisionError
from services.nats_access.revocation import NotTakenError
from services.nats_access.seeds import SeedError
from services.nats_access.server_config import ClearTextError
from services.nats_access.server_process import ServerError
from services.nats_access.users import UserError
from services.pki.spiffe import SpiffeIdError
from services.refusals import RefusedError

_CONNECT_FAILED: Final = re.compile(r"\[Errno (\d+)\] Connect call failed \([^()]*\)")  # asyncio's


def judge(error: BaseException) -> CliError | None:
    """Return what to tell for an error, None for one that is a bug."""
    match error:
        case RefusedError():
            wait = "" if error.retry_after is None else f" (retry after {error.retry_after:g} s)"
            return CliError(f"refused: {error.code}: {error.message}{wait}", Exit.FAULT)
        case transport.NotPermittedError():
            return CliError(f"not permitted: {_text(error)}", Exit.NOT_PERMITTED)
        case NotTakenError():
            return CliError(_text(error), Exit.FAULT)
        case (
            config.ConfigError()
            | transport.SetupError()
            | BadNameError()
            | BadGrantError()
            | SpiffeIdError()
            | TokenError()
            | ContextError()
            | ProvisionError()
            | ClearTextError()
            | WrongKeyEncryptionKeyError()
            | KeyEncryptionKeyError()
            | SeedError()
            | UserError()
        ):
            return CliError(_text(error), Exit.USAGE)
        case asking.NoAnswerError() | transport.TransportError() | UnreachableError():
            return CliError(f"not reachable: {_text(error)}", Exit.UNREACHABLE)
        case (
            streams.SetupError()
            | LedgerError()
            | UnknownEventTypeError()
            | KeyStoreError()
            | ServerError()
        ):
            return CliError(_text(error), Exit.FAULT)
        case OSError() if error.filename is not None and error.errno != errno.EPIPE:
            return CliError(f"{error.filename}: {error.strerror}", Exit.USAGE)
        case _:
            return None


def _text(error: BaseException) -> str:
    """Return an error's text, where what an OSError says stands as people write it.

    Python writes "[Errno 2] No such file or directory: '/nope'" where the text names the file
    already, "[Errno 111] Connect call failed ('127.0.0.1', 4222)", and ('...',) for an error of ssl
    that has no number.
    """
    text = _CONNECT_FAILED.sub(lambda found: os.strerror(int(found[1])), str(error))
    cause = error.__cause__
    while cause is not None:
        if isinstance(cause, OSError) and cause.args:
            text = text.replace(str(cause), cause.strerror or str(cause.args[0]))
        cause = cause.__cause__
    return text
