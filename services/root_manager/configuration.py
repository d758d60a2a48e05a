"""The CA's configuration as operators write and read it: Consul's JSON (sections 1.3 to 1.5).

It is replaced as a whole, and what is missing has its default, everywhere the same (H1). A key that
is not known is refused: with a misspelt one its default would count, and nobody would know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from msgspec.structs import asdict

from events.authority import CAConfig
from events.base import REQUEST_ID
from projections.authority import AuthorityState
from services import once_json
from services.config import ConfigError, InitialSection
from services.keys.interface import PrivateKey
from services.outcomes import KEY_REFERENCE, Configuration
from services.pki import certificates, given, pem, sans
from services.pki.certificates import CertificateError
from services.refusals import RefusedError, clip
from services.root_manager.configuration_keys import CONFIG, KEY_BITS
from services.root_manager.lenient import (
    Field,
    as_bool,
    as_count,
    as_it_is,
    as_number,
    as_text,
    bad_config,
    read_object,
)

BODY_BYTES_MAX: Final = 256 * 1024
WAIT_SECONDS_MAX: Final = 7 * 24 * 3600.0

_LATER: Final = {"vault", "aws-pca"}  # Consul's other providers
_READ_ONLY: Final = (
    "Provider State is read-only. It must be omitted or identical to the current value"
)


@dataclass(frozen=True)
class Wanted:
    """A configuration that somebody wants; its numbers are checked, its root is not made yet."""

    config: CAConfig
    private_key: PrivateKey | None = None  # the root's, where another one was given
    force_without_cross_signing: bool = False
    modify_index: int = 0  # of the configuration that it is to replace; 0: whichever
    wait_seconds: float = 0.0
    request_id: str | None = None


def read(body: bytes, *, current: CAConfig | None, now: datetime) -> Wanted:
    """Read the configuration that is to be; `current` is the one that there is.

    Raises RefusedError: `too_large`, `malformed`, or `bad_config` with Consul's texts.
    """
    if len(body) > BODY_BYTES_MAX:
        raise RefusedError("too_large", f"a configuration has at most {BODY_BYTES_MAX} bytes")
    try:
        decoded = once_json.decode(body or b"{}")
    except ValueError as error:
        raise RefusedError("malformed", clip(f"Request decode failed: {error}")) from error
    top = read_object("the configuration", decoded, _TOP, elsewhere={"Config": CONFIG})
    fields = read_object("Config", top.pop("Config", {}), CONFIG)
    config, private_key = _config(fields, current, now)
    return Wanted(config=config, private_key=private_key, **top)


def request_id_of(body: bytes) -> str | None:
    """Return the request id of a configuration that may be wrong in all else; None: it has none."""
    try:
        said = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    found = said.get("RequestID", said.get("request_id"))
    return found if isinstance(found, str) else None


def told(state: AuthorityState) -> Configuration:
    """Return the configuration as operators see it; `read` takes it back. No secret is in it (H12).

    Raises RefusedError `not_ready` before there is one (H16).
    """
    configuration = state.configuration
    if configuration is None:
        raise RefusedError("not_ready", "CA is uninitialized: no configuration", retry_after=0.25)
    return Configuration(
        provider=configuration.provider,
        config=shown(configuration.config),
        force_without_cross_signing=configuration.force_without_cross_signing,
        create_index=state.first_configured,
        modify_index=state.configured,
    )


def shown(config: CAConfig) -> dict[str, Any]:
    """Return Consul's `Config` of it. Of a private key it has only the id (H12)."""
    told = {
        name: field.show(getattr(config, field.attribute))
        for name, field in CONFIG.items()
        if field.attribute is not None and field.show is not None
    }
    if config.given_key_id is not None:
        told["PrivateKey"] = KEY_REFERENCE + config.given_key_id
    if config.root_certificates:
        told["RootCert"] = "".join(map(pem.encode, config.root_certificates))
    return told


def initial(section: InitialSection, *, now: datetime) -> Wanted:
    """Return what an authority begins with, as a node's configuration says.

    Raises ConfigError for a file that cannot be read, RefusedError for what cannot be used.
    """
    if section.ca_config is None:
        config = CAConfig(csr_max_per_second=section.csr_max_per_second, sans=sans.DEFAULT)
        return Wanted(config=config)
    try:
        body = section.ca_config.read_bytes()
    except OSError as error:
        raise ConfigError(f"{section.ca_config}: {error.strerror}") from error
    return read(body, current=None, now=now)


def _config(
    fields: dict[str, Any], current: CAConfig | None, now: datetime
) -> tuple[CAConfig, PrivateKey | None]:
    key_text = fields.pop("private_key", "")
    chain_text = fields.pop("root_cert", "")
    if chain_text and not key_text:
        raise bad_config("must provide a private key when providing a root cert")
    with _naming("RootCert"):
        chain = given.read_chain(chain_text) if chain_text else ()
    with _naming("PrivateKey"):
        private_key, key_id = _given_key(key_text, chain, current)
    if private_key is not None:
        fields = _of_key(fields, private_key)
    elif key_id is not None and current is not None:
        fields["private_key_type"] = current.private_key_type
        fields["private_key_bits"] = current.private_key_bits
    key_type = fields.setdefault("private_key_type", "ec")
    fields.setdefault("private_key_bits", KEY_BITS.get(key_type, 0))
    fields.setdefault("sans", sans.DEFAULT)
    try:
        config = CAConfig(given_key_id=key_id, root_certificates=chain, **fields)
        config = msgspec.convert(asdict(config), CAConfig, from_attributes=True)  # checks ranges
    except msgspec.ValidationError as error:
        raise bad_config(str(error)) from error
    if not config.skip_validate:
        _check_lives(config)
    _check_key(config)
    if private_key is not None and chain:
        _check_root(config, private_key, now)
    return config, private_key


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """Tell what is wrong with the value of a key with its name."""
    try:
        yield
    except CertificateError as error:
        raise bad_config(f"{key}: {error}") from error


def _given_key(
    text: str, chain: tuple[bytes, ...], current: CAConfig | None
) -> tuple[PrivateKey | None, str | None]:
    """Return a key that was given, and the id of it; a reference to the one in use is no key."""
    if not text:
        return None, None
    if not text.startswith(KEY_REFERENCE):
        key = given.read_key(text)
        key_id = certificates.key_id(key.public_key())
        return (None if _is_root(current, key_id, chain) else key), key_id
    key_id = text.removeprefix(KEY_REFERENCE)
    if not _is_root(current, key_id, chain):
        raise bad_config(
            "PrivateKey refers to a key that is not in use together with this RootCert: give the "
            "key itself, in PEM"
        )
    return None, key_id


def _is_root(current: CAConfig | None, key_id: str, chain: tuple[bytes, ...]) -> bool:
    """Say whether a given key, with these certificates, is what the configuration has already."""
    if current is None:
        return False
    return current.given_key_id == key_id and current.root_certificates == chain


def _of_key(fields: dict[str, Any], key: PrivateKey) -> dict[str, Any]:
    """Return the fields with the type and the size of the key that was given."""
    key_type, bits = certificates.key_type_and_bits(key.public_key())
    said = (fields.get("private_key_type", key_type), fields.get("private_key_bits", bits))
    if said != (key_type, bits):
        raise bad_config(
            f"the private key is {key_type} of {bits} bits, not {said[0]} of {said[1]}"
        )
    return {**fields, "private_key_type": key_type, "private_key_bits": bits}


def _check_lives(config: CAConfig) -> None:
    """Raise RefusedError where lives do not fit, in Consul's order (section 1.4)."""
    leaf, intermediate, root = (
        config.leaf_cert_ttl_seconds,
        config.intermediate_cert_ttl_seconds,
        config.root_cert_ttl_seconds,
    )
    if root < intermediate:
        raise bad_config(
            "root cert TTL is set and is not greater than intermediate cert ttl. "
            f"root cert ttl: {_go(root)}, intermediate cert ttl: {_go(intermediate)}"
        )
    if leaf < 3600:
        raise bad_config("leaf cert TTL must be greater or equal than 1h0m0s")
    if leaf > 8760 * 3600:
        raise bad_config("leaf cert TTL must be less than 8760h0m0s")
    if intermediate < 3 * 3600:
        raise bad_config("Intermediate Cert TTL must be greater or equal than 3h")
    if intermediate < 3 * leaf:
        raise bad_config(
            "Intermediate Cert TTL must be greater or equal than 3 * LeafCertTTL "
            f"(>={_go(3 * leaf)})."
        )


def _check_key(config: CAConfig) -> None:
    """Raise RefusedError for a kind of key that no CA may have (architecture, section 8)."""
    match config.private_key_type, config.private_key_bits:
        case ("ec", 256 | 384) | ("rsa", 2048 | 3072 | 4096):
            return
        case "ec", 224 | 521:
            raise bad_config(
                f"an EC key of {config.private_key_bits} bits cannot be a CA's: not every verifier "
                "takes it; use 256 or 384"
            )
        case "ec", _:
            raise bad_config("EC key length must be one of (224, 256, 384, 521) bits")
        case _:
            raise bad_config("RSA key length must be 2048, 3072 or 4096 bits")


def _check_root(config: CAConfig, key: PrivateKey, now: datetime) -> None:
    try:
        given.check_root(
            config.root_certificates,
            key,
            cas_below=1 if config.leaf_signer == "intermediate" else 0,
            now=now,
            until=now + timedelta(seconds=config.leaf_cert_ttl_seconds),
        )
    except CertificateError as error:
        raise bad_config(str(error)) from error


def _go(seconds: int) -> str:
    """Write a life as Go does."""
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}h{minute}m{second}s"


def _wait(value: object) -> float:
    number = as_number(value)
    if not 0 <= number <= WAIT_SECONDS_MAX:
        raise ValueError(f"0 to {WAIT_SECONDS_MAX:.0f} seconds can be waited")
    return number


def _provider(value: object) -> None:
    text = as_text(value)
    if text in _LATER:
        raise bad_config(f'CA provider "{text}" is not supported yet: only "consul" is')
    if text not in {"", "consul"}:
        raise bad_config(f'unknown CA provider "{text[:40]}"')


def _state(value: object) -> None:
    if value != {}:
        raise bad_config(_READ_ONLY)


def _request_id(value: object) -> str:
    text = as_text(value)
    if not REQUEST_ID.fullmatch(text):
        raise ValueError("a request id has 1 to 64 of A-Z, a-z, 0-9, _ and -")
    return text


_TOP: Final[Mapping[str, Field]] = {
    "Provider": Field(None, _provider),
    "Config": Field("Config", as_it_is),
    "State": Field(None, _state),
    "ForceWithoutCrossSigning": Field("force_without_cross_signing", as_bool),
    "CreateIndex": Field(None, as_it_is),
    "ModifyIndex": Field("modify_index", as_count),
    "WaitSeconds": Field("wait_seconds", _wait),
    "RequestID": Field("request_id", _request_id),
}
