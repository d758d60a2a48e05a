"""Where a node keeps what belongs to NATS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from events.subjects import Subjects

CLIENTS_SIGNING: Final = "clients-signing"  # makes users of CLIENTS; can make no worker
OPERATOR_SIGNING: Final = "operator-signing"  # signs account tokens: needed to revoke a user
ONLINE_SEEDS: Final = (CLIENTS_SIGNING, OPERATOR_SIGNING)


@dataclass(frozen=True)
class NatsLayout:
    """The files below `DIR/nats`."""

    data: Path
    datacenter: str

    @property
    def subjects(self) -> Subjects:
        """Return the names of this datacenter."""
        return Subjects(self.datacenter)

    @property
    def folder(self) -> Path:
        """Return the folder of all of it."""
        return self.data / "nats"

    @property
    def server_conf(self) -> Path:
        """Return the server's configuration; it includes `accounts_conf`."""
        return self.folder / "server.conf"

    @property
    def accounts_conf(self) -> Path:
        """Return whom the server trusts: operator and accounts, as a part of its configuration."""
        return self.folder / "accounts.conf"

    @property
    def resolver(self) -> Path:
        """Return where the server keeps account tokens, those pushed while it runs included."""
        return self.folder / "jwt"

    @property
    def tls(self) -> Path:
        """Return the folder of the transport CA and of the server's certificate."""
        return self.folder / "tls"

    @property
    def transport_ca(self) -> Path:
        """Return the certificate that clients trust the server by."""
        return self.tls / "ca.pem"

    @property
    def contexts(self) -> Path:
        """Return the folder of `nats` CLI contexts, and of their users' creds."""
        return self.folder / "context"

    @property
    def users(self) -> Path:
        """Return the register of users that were added: public, a file each."""
        return self.folder / "users"

    @property
    def lock(self) -> Path:
        """Return the file that whoever changes users or tokens holds a lock on."""
        return self.folder / ".lock"

    def creds(self, user: str) -> Path:
        """Return the credentials of a worker, of `init` or of `sys`."""
        return self.folder / "creds" / f"{user}.creds"

    def client_creds(self, user: str) -> Path:
        """Return the credentials of a user of account CLIENTS."""
        return self.contexts / f"{user}.creds"

    def context(self, user: str) -> Path:
        """Return the `nats` CLI context of a user of account CLIENTS."""
        return self.contexts / f"{user}.json"

    def user(self, name: str) -> Path:
        """Return the entry of a user in the register."""
        return self.users / f"{name}.json"

    def token(self, of: str) -> Path:
        """Return the token of `operator`, or of an account (`ca`, `workers`, ...): public."""
        return self.folder / "tokens" / f"{of}.jwt"

    def seed(self, key: str) -> Path:
        """Return a sealed seed: those not needed after `init` are in a folder of their own."""
        folder = "seeds" if key in ONLINE_SEEDS else "offline"
        return self.folder / folder / f"{key}.sealed"
