"""The keys of Consul's `Config` (sections 1.3 to 1.5): how each value is read, and shown again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from msgspec.structs import asdict, replace

from events.authority import AllowedNames, SanPolicy
from events.leaves import IDENTITY_KINDS
from services.config import check_rate
from services.pki import sans
from services.root_manager.lenient import (
    Field,
    as_bool,
    as_count,
    as_duration,
    as_it_is,
    as_number,
    as_text,
    as_whole,
    bad_config,
    read_object,
    short_duration,
)

KEY_BITS: Final[Mapping[str, int]] = {"ec": 256, "rsa": 2048}  # by type, where they are not said


def _rate(value: object) -> float:
    return check_rate(as_number(value))


def _key_type(value: object) -> str:
    text = as_text(value)
    if text not in KEY_BITS:
        raise bad_config("private key type must be either 'ec' or 'rsa'")
    return text


def _leaf_signer(value: object) -> str:
    text = as_text(value)
    if text not in {"intermediate", "root"}:
        raise ValueError("'intermediate' or 'root' signs leaves")
    return text


def _read_sans(value: object) -> SanPolicy:
    """Read what leaves may carry; a kind that is not named keeps its default."""
    kinds = read_object(
        "SANs", value, {kind.title(): Field(kind, _reader(kind)) for kind in IDENTITY_KINDS}
    )
    return replace(sans.DEFAULT, **kinds)


def _reader(kind: str) -> Callable[[object], AllowedNames]:
    return lambda value: _names(f"SANs.{kind.title()}", value)


def _names(what: str, value: object) -> AllowedNames:
    fields = {
        "DNS": Field("dns", lambda names: _each(names, sans.check_pattern)),
        "IP": Field("ip", lambda networks: _each(networks, sans.check_network)),
    }
    return AllowedNames(**read_object(what, value, fields, path=f"{what}."))


def _each(value: object, check: Callable[[str], str]) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("a list was expected")
    return tuple(check(as_text(one)) for one in value)


def _show_sans(policy: SanPolicy) -> dict[str, dict[str, Iterable[str]]]:
    return {
        kind.title(): {"DNS": allowed.dns, "IP": allowed.ip}
        for kind, allowed in asdict(policy).items()
    }


CONFIG: Final[Mapping[str, Field]] = {
    "LeafCertTTL": Field("leaf_cert_ttl_seconds", as_duration, short_duration),
    "IntermediateCertTTL": Field("intermediate_cert_ttl_seconds", as_duration, short_duration),
    "RootCertTTL": Field("root_cert_ttl_seconds", as_duration, short_duration),
    "CSRMaxPerSecond": Field("csr_max_per_second", _rate, as_it_is),
    "CSRMaxConcurrent": Field("csr_max_concurrent", as_count, as_it_is),
    "PrivateKeyType": Field("private_key_type", _key_type, as_it_is),
    "PrivateKeyBits": Field("private_key_bits", as_whole, as_it_is),
    "PrivateKey": Field("private_key", as_text),
    "RootCert": Field("root_cert", as_text),
    "LeafSigner": Field("leaf_signer", _leaf_signer, as_it_is),
    "SkipValidate": Field("skip_validate", as_bool, as_it_is),
    "SANs": Field("sans", _read_sans, _show_sans),
    "RotationPeriod": Field(None, as_it_is),  # in Consul's documentation; it has no meaning
}
