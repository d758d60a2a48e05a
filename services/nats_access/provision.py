"""Everything that a node's NATS needs before it is started for the first time.

Made step by step, each file whole or not there; what exists is never made again. So a crash at any
step is finished by the next run, and a run on a folder that is complete changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from services.breakpoints import reached
from services.clock import Clock, SystemClock
from services.keys.kek import KeyEncryptionKey
from services.nats_access import accounts, jwt, revocation, seeds, server_config, users
from services.nats_access.files import write_atomically
from services.nats_access.layout import CLIENTS_SIGNING, ONLINE_SEEDS, OPERATOR_SIGNING, NatsLayout
from services.nats_access.permissions import CA, WORKERS, Role, permissions

_KEYS: Final = {
    "operator": seeds.Kind.OPERATOR,
    OPERATOR_SIGNING: seeds.Kind.OPERATOR,
    "ca": seeds.Kind.ACCOUNT,
    "ca-signing": seeds.Kind.ACCOUNT,
    "workers": seeds.Kind.ACCOUNT,
    "workers-signing": seeds.Kind.ACCOUNT,
    "clients": seeds.Kind.ACCOUNT,
    CLIENTS_SIGNING: seeds.Kind.ACCOUNT,
    "sys": seeds.Kind.ACCOUNT,
    "sys-signing": seeds.Kind.ACCOUNT,
}
_TOKENS: Final = ("operator", "sys", "ca", "workers", "clients")
_CLOCK: Final = SystemClock()


class ProvisionError(Exception):
    """The folder holds something else than this run would make; nothing was changed."""


def provision(
    data_dir: Path,
    datacenter: str,
    nats_kek: KeyEncryptionKey,
    *,
    clock: Clock = _CLOCK,
    in_use: bool = False,
) -> NatsLayout:
    """Make operator, accounts, workers' and first users' credentials, where they are missing.

    `in_use`: the folder was complete before; then a first user whose creds are missing is not made
    again, as somebody may hold them. One that was revoked never is: `users.add_user` does that.
    Raises ProvisionError where the folder is of another datacenter, WrongKeyError for a
    key-encryption key that does not open what is there, and SeedError where a seed is needed that
    was taken away (the offline ones). Nothing is changed by then.
    """
    layout = NatsLayout(data_dir, datacenter)
    with users.locked(layout):
        _check(layout, nats_kek)
        keys = _Keys(layout, nats_kek)
        _make_tokens(layout, keys, clock)
        revocation.write_accounts_conf(layout)
        reached("init.nats_accounts")
        _make_workers(layout, keys, clock)
        reached("init.nats_workers")
        _make_users(layout, keys, clock, in_use=in_use)
        reached("init.nats_users")
    return layout


def load(data_dir: Path) -> NatsLayout:
    """Return the layout of a folder that was provisioned; raises ProvisionError."""
    file = NatsLayout(data_dir, "unknown").token("operator")
    try:
        return NatsLayout(data_dir, jwt.read(file).name)
    except jwt.TokenError as error:
        raise ProvisionError(f"{data_dir} was not made by `caledger init`: {error}") from error


def write_server_conf(
    layout: NatsLayout, *, node: str, listen: str, port: int, tls: server_config.TlsFiles | None
) -> Path:
    """Write the configuration of this node's only server, as it is to be started now.

    Raises ClearTextError where `listen` is not a loopback address and there is no TLS.
    """
    server = server_config.Server(
        name=node,
        datacenter=layout.datacenter,
        listen=listen,
        port=port,
        store=layout.folder.resolve(),
        accounts_conf=layout.accounts_conf.name,
        tls=tls,
    )
    write_atomically(layout.server_conf, server_config.render(server).encode(), mode=0o600)
    return layout.server_conf


class _Keys:
    """The seeds: opened when they are needed, made only while nothing was signed with them."""

    def __init__(self, layout: NatsLayout, kek: KeyEncryptionKey) -> None:
        self._layout = layout
        self._kek = kek
        self._may_make = not layout.token("operator").exists()
        self._open: dict[str, seeds.Nkey] = {}

    def __getitem__(self, name: str) -> seeds.Nkey:
        if name not in self._open:
            self._open[name] = self._load_or_make(name)
        return self._open[name]

    def _load_or_make(self, name: str) -> seeds.Nkey:
        file = self._layout.seed(name)
        if file.exists() or not self._may_make:
            return seeds.load(file, self._kek)
        key = seeds.Nkey.generate(_KEYS[name])
        seeds.seal(file, key.seed, self._kek)
        reached(f"init.nats_seed_{name}")
        return key


def _check(layout: NatsLayout, kek: KeyEncryptionKey) -> None:
    operator = layout.token("operator")
    if operator.exists():
        found = jwt.read(operator).name
        if found != layout.datacenter:
            raise ProvisionError(
                f"{layout.data} belongs to datacenter {found}, not {layout.datacenter}"
            )
    for name in _KEYS:
        file = layout.seed(name)
        if file.exists() and (name in ONLINE_SEEDS or not operator.exists()):
            seeds.unseal(file, kek)


def _make_tokens(layout: NatsLayout, keys: _Keys, clock: Clock) -> None:
    missing = [name for name in _TOKENS if not layout.token(name).exists()]
    if not missing:
        return
    public = accounts.PublicKeys(**{name.replace("-", "_"): keys[name].public for name in _KEYS})
    claims = {
        "operator": accounts.operator_claims(public),
        "sys": accounts.sys_claims(public, layout.subjects),
        "ca": accounts.ca_claims(public, layout.subjects),
        "workers": accounts.workers_claims(public, layout.subjects),
        "clients": accounts.clients_claims(public, layout.subjects),
    }
    for name in missing:
        signer = keys["operator" if name == "operator" else OPERATOR_SIGNING]
        token = jwt.encode(
            signer,
            subject=keys[name].public,
            name=layout.datacenter if name == "operator" else name.upper(),
            nats=claims[name],
            issued=clock.now(),
        )
        write_atomically(layout.token(name), token.encode())
        reached(f"init.nats_token_{name}")


def _make_workers(layout: NatsLayout, keys: _Keys, clock: Clock) -> None:
    accounts_of = {
        "ca": CA,
        "workers": WORKERS,
        "sys": (Role.SYS,),
    }
    for account, role in ((name, role) for name, roles in accounts_of.items() for role in roles):
        file = layout.creds(role.value)
        if file.exists():
            continue
        users.issue(
            file,
            seeds.Nkey.generate(seeds.Kind.USER),
            name=role.value,
            allowed=permissions(role, layout.subjects),
            signer=keys[f"{account}-signing"],
            account=jwt.read(layout.token(account)).sub,
            issued=clock.now(),
        )


def _make_users(layout: NatsLayout, keys: _Keys, clock: Clock, *, in_use: bool) -> None:
    """Make admin and auditor."""
    for role in users.FIRST_USERS:
        if layout.client_creds(role.value).exists():
            continue
        known = users.find(layout, role.value)
        if in_use or (known is not None and known.revoked is not None):
            continue
        entry = users.User(
            name=role.value,
            role="admin" if role is Role.ADMIN else "auditor",
            sign=(),
            keys=known.keys if known else (),
            issued=clock.now(),
        )
        users.register(layout, entry, permissions(role, layout.subjects), keys[CLIENTS_SIGNING])
