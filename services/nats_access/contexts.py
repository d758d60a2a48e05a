"""Contexts of the `nats` CLI: `XDG_CONFIG_HOME=DIR nats --context admin ...` works."""

from __future__ import annotations

from pathlib import Path

import msgspec

from events.base import Struct
from events.subjects import Subjects
from services.nats_access.files import write_atomically
from services.nats_access.layout import NatsLayout


class ContextError(Exception):
    """A context that is not there or cannot be read; the text says which."""


class Context(Struct, omit_defaults=True):
    """What we write of a context; the names are the CLI's."""

    description: str
    url: str
    creds: str
    inbox_prefix: str
    ca: str = ""
    tls_first: bool = False  # TLS from the first byte

    @property
    def ca_file(self) -> Path | None:
        """Return the transport CA, where the server speaks TLS."""
        return Path(self.ca) if self.ca else None


def write(layout: NatsLayout, user: str, *, url: str, ca: Path | None) -> Path:
    """Write the context of a user whose creds are beside it; returns the file."""
    context = Context(
        description=f"caledger {layout.datacenter}: {user}",
        url=url,
        creds=str(layout.client_creds(user).resolve()),
        inbox_prefix=Subjects.inbox_prefix(user),
        ca="" if ca is None else str(ca.resolve()),
        tls_first=ca is not None,
    )
    file = layout.context(user)
    content = msgspec.json.format(msgspec.json.encode(context), indent=2) + b"\n"
    if not file.exists() or file.read_bytes() != content:
        write_atomically(file, content, mode=0o600)
    return file


def write_all(layout: NatsLayout, *, url: str, ca: Path | None) -> list[Path]:
    """Write the context of every user whose creds are here: the server has this address now."""
    names = sorted(file.stem for file in layout.contexts.glob("*.creds"))
    return [write(layout, name, url=url, ca=ca) for name in names]


def read(file: Path) -> Context:
    """Read a context, ours or another; raises ContextError."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Context)
    except OSError as error:
        raise ContextError(f"{file}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise ContextError(f"{file}: {error}") from error
