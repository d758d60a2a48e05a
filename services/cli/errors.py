"""Which of our errors ends a command how."""

from __future__ import annotations

import errno

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


def judge(error: BaseException) -> CliError | None:
    """Return what to tell for an error, None for one that is a bug."""
    match error:
        case RefusedError():
            wait = "" if error.retry_after is None else f" (retry after {error.retry_after:g} s)"
            return CliError(f"refused: {error.code}: {error.message}{wait}", Exit.FAULT)
        case transport.NotPermittedError():
            return CliError(f"not permitted: {error}", Exit.NOT_PERMITTED)
        case NotTakenError():
            return CliError(str(error), Exit.FAULT)
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
            return CliError(str(error), Exit.USAGE)
        case asking.NoAnswerError() | transport.TransportError() | UnreachableError():
            return CliError(f"not reachable: {error}", Exit.UNREACHABLE)
        case (
            streams.SetupError()
            | LedgerError()
            | UnknownEventTypeError()
            | KeyStoreError()
            | ServerError()
        ):
            return CliError(str(error), Exit.FAULT)
        case OSError() if error.filename is not None and error.errno != errno.EPIPE:
            return CliError(f"{error.filename}: {error.strerror}", Exit.USAGE)
        case _:
            return None
