"""A node's configuration: one TOML file, read by every worker, written by `caledger init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from events.authority import RATE_MAX
from events.base import Struct
from services.pki.spiffe import check_trust_domain

METRICS_PORTS: Final = {  # above the base port
    "leader-elector": 0,
    "root-manager": 1,
    "replicator": 2,
    "signer": 3,  # of slot 0
}
METRICS_PORT_MAX: Final = 65_000  # of the base


class ConfigError(Exception):
    """The configuration cannot be used; the text says where and why."""


def check_rate(rate: float) -> float:
    """Return a rate limit that somebody chose; raises ValueError.

    TOML and command lines know infinity and what is no number; JSON, hence the ledger, does not.
    """
    if not 0 <= rate <= RATE_MAX:  # neither holds for what is no number
        raise ValueError(f"{rate} is no rate limit: it takes 0 (off) to {RATE_MAX:g} a second")
    return rate


class Section(Struct, forbid_unknown_fields=True):
    """A part of the file: a key that we do not know is an error."""


class NatsSection(Section):
    """How this node's workers reach nats-server."""

    servers: Annotated[tuple[str, ...], Meta(min_length=1)]  # nats://HOST:PORT or tls://HOST:PORT
    creds: Path  # folder with a file <worker>.creds for each worker
    ca: Path | None = None  # the transport CA; with it, TLS from the first byte, never clear text


class KeysSection(Section):
    """Key-encryption keys: `file:PATH`, `env:NAME` (hex) or `credential:NAME` (systemd)."""

    signing: str
    root: str | None = None  # only where a root-manager runs


class InitialSection(Section):
    """What the root-manager makes of an empty ledger; without effect afterwards, as in Consul."""

    trust_domain: str | None = None  # None: <cluster id>.consul
    csr_max_per_second: float = 50.0  # where `ca_config` is not named
    ca_config: Path | None = None  # JSON as `ca set-config` takes it; read when it is needed

    def __post_init__(self) -> None:
        """Raise ValueError for what no authority could begin with."""
        if self.trust_domain is not None:
            check_trust_domain(self.trust_domain)
        check_rate(self.csr_max_per_second)


class EmbeddedSection(Section):
    """The nats-server that `caledger dev` runs on this node; absent where it runs elsewhere."""

    listen: str = "127.0.0.1"  # address; any that is not loopback needs TLS
    port: Annotated[int, Meta(ge=1, le=65535)] = 4222
    tls: bool = False
    advertise: tuple[str, ...] = ()  # what else others call it: names and addresses in its TLS

    @property
    def reach(self) -> str:
        """Return the address that this machine reaches it by."""
        wildcards = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
        return wildcards.get(self.listen, self.listen)

    @property
    def url(self) -> str:
        """Return where clients on this machine connect."""
        host = f"[{self.reach}]" if ":" in self.reach else self.reach
        return f"{'tls' if self.tls else 'nats'}://{host}:{self.port}"


class MetricsSection(Section):
    """Where each of the node's workers tells its metrics and its health, over HTTP."""

    address: str = "127.0.0.1"  # one that others reach needs no secret: nothing there is one
    base_port: Annotated[int, Meta(ge=1, le=METRICS_PORT_MAX)] | None = None  # None: nowhere

    def port(self, worker: str, slot: int) -> int | None:
        """Return a worker's own port: `base_port` is the leader-elector's, the others follow it."""
        if self.base_port is None:
            return None
        return self.base_port + METRICS_PORTS[worker] + (slot if worker == "signer" else 0)


class NodeConfig(Section):
    """All of it. Relative paths are relative to the file's own folder."""

    datacenter: str
    node: str  # a name of its own for every machine
    data: Path  # the node's projections file lives here
    nats: NatsSection
    keys: KeysSection
    initial: InitialSection = InitialSection()
    embedded: EmbeddedSection | None = None
    metrics: MetricsSection = MetricsSection()
    lease_seconds: Annotated[int, Meta(ge=1, le=60)] = 3  # of the leader's and the signers' leases
    duplicate_window_seconds: Annotated[int, Meta(ge=2, le=86_400)] = 600
    """Of the ledger's stream, as it was made; an append without an answer is sent again for half of
    it. The same on every node."""

    @property
    def projections_file(self) -> Path:
        """Return the SQLite file that the node's replicator keeps."""
        return self.data / "projections.sqlite"

    def creds_file(self, worker: str) -> Path:
        """Return the NATS credentials of one of this node's workers."""
        return self.nats.creds / f"{worker}.creds"


def load(file: Path) -> NodeConfig:
    """Read a node's configuration; raises ConfigError."""
    try:
        config = msgspec.toml.decode(file.read_bytes(), type=NodeConfig, dec_hook=_decode)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"{file}: {error}") from error
    base = file.resolve().parent
    nats = msgspec.structs.replace(
        config.nats,
        creds=base / config.nats.creds,
        ca=base / config.nats.ca if config.nats.ca else None,
    )
    initial = config.initial
    if initial.ca_config is not None:
        initial = msgspec.structs.replace(initial, ca_config=base / initial.ca_config)
    return msgspec.structs.replace(
        config,
        data=base / config.data,
        initial=initial,
        nats=nats,
        keys=KeysSection(
            signing=_absolute(config.keys.signing, base),
            root=_absolute(config.keys.root, base) if config.keys.root else None,
        ),
    )


def _absolute(key: str, base: Path) -> str:
    scheme, _, rest = key.partition(":")
    return f"file:{base / rest}" if scheme == "file" else key


def _decode(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"{kind} cannot be read from a configuration")
