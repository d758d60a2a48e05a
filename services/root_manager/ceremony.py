"""Making a new authority: its names, its keys, its root and the intermediate that signs leaves."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from events.authority import (
    CAConfig,
    CAConfigured,
    IntermediateInstalled,
    KeyCreated,
    KeyPurpose,
    RootPublished,
)
from events.base import Struct, utc
from events.catalogue import CODEC
from services.breakpoints import reached
from services.clock import Entropy
from services.config import ConfigError
from services.keys.interface import KeySpec, KeyStore, PublicKey
from services.pki import certificates, spiffe
from services.root_manager.decide import Initialise

ROOT_NAME: Final = "Consul CA Primary Cert"  # Consul's text (specification, section 1.1)


class Names(Struct):
    """What an authority is called, for the life of its ledger."""

    datacenter: str
    cluster_id: str
    trust_domain: str


def name_authority(datacenter: str, trust_domain: str | None, entropy: Entropy) -> Names:
    """Choose a cluster id, and with it Consul's trust domain where none was named.

    Raises SpiffeIdError for a trust domain that is none, before any key is made.
    """
    cluster_id = str(UUID(hex=entropy.token(), version=4))
    return Names(
        datacenter=datacenter,
        cluster_id=cluster_id,
        trust_domain=(
            spiffe.check_trust_domain(trust_domain)
            if trust_domain is not None
            else spiffe.trust_domain_of(cluster_id)
        ),
    )


async def make_authority(
    names: Names,
    config: CAConfig,
    *,
    root_keys: KeyStore,
    signing_keys: KeyStore,
    now: datetime,
    entropy: Entropy,
) -> Initialise:
    """Make two keys and two certificates; nothing is recorded yet.

    The keys are durable when it returns: a crash from here on leaves keys that no event knows,
    which the root-manager destroys later. Raises KeyStoreError; and ConfigError, before any key is
    made, for a configuration that no reader of the ledger would accept.
    """
    configured = _configured(names, config)
    root_key = await root_keys.create(_spec(config, "root"))
    signing_key = await signing_keys.create(_spec(config, "signing"))
    reached("root_manager.keys_created")
    root = await _root(names, config, root_key, root_keys, now, entropy)
    return Initialise(
        configured=configured,
        root_key=_created(root_key, "root"),
        signing_key=_created(signing_key, "signing"),
        root=root,
        intermediate=await _intermediate(names, config, root, signing_key, root_keys, now, entropy),
    )


def _configured(names: Names, config: CAConfig) -> CAConfigured:
    """Return the event, read back as every reader will read it."""
    told = CAConfigured(
        cluster_id=names.cluster_id,
        trust_domain=names.trust_domain,
        provider="consul",
        config=config,
    )
    try:
        CODEC.decode(told.TYPE, msgspec.json.encode(told))
    except msgspec.ValidationError as error:
        raise ConfigError(f"the authority cannot be configured like this: {error}") from error
    return told


async def _root(
    names: Names,
    config: CAConfig,
    public_key: PublicKey,
    keys: KeyStore,
    now: datetime,
    entropy: Entropy,
) -> RootPublished:
    key_type, key_bits = certificates.key_type_and_bits(public_key)
    key_id = certificates.key_id(public_key)
    tbs = certificates.root_tbs(
        public_key=public_key,
        trust_domain=names.trust_domain,
        common_name=certificates.common_name("pri", names.cluster_id, entropy.token()),
        serial=entropy.serial(),
        not_before=utc(now) - certificates.CA_BACKDATE,
        not_after=utc(now) + timedelta(seconds=config.root_cert_ttl_seconds),
    )
    root = certificates.assemble(tbs, await keys.sign(key_id, tbs), key_type)
    loaded = certificates.load(root)
    return RootPublished(
        root_id=certificates.root_id(root),
        name=ROOT_NAME,
        key_id=key_id,
        key_type=key_type,
        key_bits=key_bits,
        external_trust_domain=names.cluster_id,
        certificate=root,
        not_before=loaded.not_valid_before_utc,
        not_after=loaded.not_valid_after_utc,
    )


async def _intermediate(
    names: Names,
    config: CAConfig,
    root: RootPublished,
    public_key: PublicKey,
    root_keys: KeyStore,
    now: datetime,
    entropy: Entropy,
) -> IntermediateInstalled:
    """Sign the intermediate with the root's key; it lives no longer than the root (H9)."""
    tbs = certificates.intermediate_tbs(
        public_key=public_key,
        issuer=root.certificate,
        trust_domain=names.trust_domain,
        common_name=certificates.common_name("pri", names.cluster_id, entropy.token()),
        serial=entropy.serial(),
        not_before=utc(now) - certificates.CA_BACKDATE,
        not_after=utc(now) + timedelta(seconds=config.intermediate_cert_ttl_seconds),
    )
    certificate = certificates.assemble(tbs, await root_keys.sign(root.key_id, tbs), root.key_type)
    loaded = certificates.load(certificate)
    return IntermediateInstalled(
        datacenter=names.datacenter,
        root_id=root.root_id,
        signing_key_id=certificates.key_id(public_key),
        certificate=certificate,
        not_before=loaded.not_valid_before_utc,
        not_after=loaded.not_valid_after_utc,
    )


def _spec(config: CAConfig, purpose: KeyPurpose) -> KeySpec:
    return KeySpec(key_type=config.private_key_type, bits=config.private_key_bits, purpose=purpose)


def _created(public_key: PublicKey, purpose: KeyPurpose) -> KeyCreated:
    key_type, key_bits = certificates.key_type_and_bits(public_key)
    return KeyCreated(
        key_id=certificates.key_id(public_key),
        key_type=key_type,
        key_bits=key_bits,
        purpose=purpose,
        custody="sealed",
    )
