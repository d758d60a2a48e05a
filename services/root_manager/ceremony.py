"""Making keys and certificates of an authority; nothing is recorded here.

Keys are durable when they are returned: a crash from then on leaves keys that no event knows, which
the root-manager destroys later.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from uuid import UUID

import msgspec

from events.authority import (
    CAConfig,
    CAConfigured,
    IntermediateInstalled,
    KeyCreated,
    KeyPurpose,
    KeyShared,
    LeafSignerSelected,
    RootPublished,
)
from events.base import Struct, utc
from events.catalogue import CODEC
from services.breakpoints import reached
from services.clock import Clock, Entropy
from services.config import ConfigError
from services.keys.interface import KeySpec, KeyStore, PrivateKey, PublicKey
from services.pki import certificates, spiffe
from services.root_manager.commands import Initialise, LeafSigner

ROOT_NAME: Final = "Consul CA Primary Cert"  # Consul's text (specification, section 1.1)


class Names(Struct):
    """What an authority is called, for the life of its ledger."""

    datacenter: str
    cluster_id: str
    trust_domain: str


class MadeRoot(Struct):
    """A root, and its key where that was not recorded before."""

    key: KeyCreated
    root: RootPublished


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


class Ceremony:
    """Makes what an authority consists of, with its key stores."""

    def __init__(
        self, *, root_keys: KeyStore, signing_keys: KeyStore, clock: Clock, entropy: Entropy
    ) -> None:
        self._root_keys = root_keys
        self._signing_keys = signing_keys
        self._clock = clock
        self._entropy = entropy

    async def authority(
        self,
        names: Names,
        config: CAConfig,
        *,
        given: PrivateKey | None = None,
        force_without_cross_signing: bool = False,
        request_id: str | None = None,
    ) -> Initialise:
        """Make a new authority: a root, its key, and what signs leaves.

        `given`: the root's key, where `config` names one. Raises KeyStoreError; and ConfigError,
        before any key is made, for a configuration that no reader of the ledger would accept.
        """
        configured = _configured(
            names, config, request_id, force_without_cross_signing=force_without_cross_signing
        )
        made = await self.root(names, config, given=given)
        leaf_signer = await self.leaf_signer(names, config, made.root)
        reached("root_manager.keys_created")
        return Initialise(
            configured=configured, root_key=made.key, root=made.root, leaf_signer=leaf_signer
        )

    async def root(
        self, names: Names, config: CAConfig, *, given: PrivateKey | None = None
    ) -> MadeRoot:
        """Make a root of a new key, or of the key that the operator gave, or take theirs whole.

        Raises KeyStoreError.
        """
        if given is not None:
            key = await self._root_keys.keep(given)
        else:
            key = await self._root_keys.create(_spec(config, "root"))
        certificate, *chain = config.root_certificates or (
            await self._self_signed(names, config, key),
        )
        key_type, key_bits = certificates.key_type_and_bits(key)
        loaded = certificates.load(certificate)
        return MadeRoot(
            key=_created(key, "root", given=given is not None),
            root=RootPublished(
                root_id=certificates.root_id(certificate),
                name=ROOT_NAME,
                key_id=certificates.key_id(key),
                key_type=key_type,
                key_bits=key_bits,
                external_trust_domain=names.cluster_id,
                certificate=certificate,
                chain=tuple(chain),
                not_before=loaded.not_valid_before_utc,
                not_after=loaded.not_valid_after_utc,
            ),
        )

    async def cross_signed(self, root: RootPublished, by: RootPublished) -> bytes:
        """Return a new root's certificate by the key of the root before it; raises KeyStoreError.

        It lives as long as both roots do (H10).
        """
        tbs = certificates.cross_signed_tbs(
            root=root.certificate,
            issuer=by.certificate,
            serial=self._entropy.serial(),
            not_before=root.not_before,
            not_after=root.not_after,
        )
        return certificates.assemble(tbs, await self._root_keys.sign(by.key_id, tbs), by.key_type)

    async def leaf_signer(self, names: Names, config: CAConfig, root: RootPublished) -> LeafSigner:
        """Make what signs leaves below a root; raises KeyStoreError."""
        if config.leaf_signer == "root":
            await self._root_keys.share(root.key_id, self._signing_keys)
            return LeafSigner(
                selected=LeafSignerSelected(
                    datacenter=names.datacenter, root_id=root.root_id, signing_key_id=root.key_id
                ),
                shared=KeyShared(key_id=root.key_id),
            )
        key = await self.signing_key(config)
        return LeafSigner(
            key=key, selected=await self.intermediate(names, config, root, key.key_id)
        )

    async def signing_key(self, config: CAConfig) -> KeyCreated:
        """Make the key of an intermediate; raises KeyStoreError."""
        return _created(await self._signing_keys.create(_spec(config, "signing")), "signing")

    async def intermediate(
        self, names: Names, config: CAConfig, root: RootPublished, key_id: str
    ) -> IntermediateInstalled:
        """Sign an intermediate with the root's key; it lives no longer than the root (H9).

        Raises KeyStoreError.
        """
        now = utc(self._clock.now())
        tbs = certificates.intermediate_tbs(
            public_key=await self._signing_keys.public(key_id),
            issuer=root.certificate,
            trust_domain=names.trust_domain,
            common_name=certificates.common_name("pri", names.cluster_id, self._entropy.token()),
            serial=self._entropy.serial(),
            not_before=now - certificates.CA_BACKDATE,
            not_after=now + timedelta(seconds=config.intermediate_cert_ttl_seconds),
        )
        signature = await self._root_keys.sign(root.key_id, tbs)
        certificate = certificates.assemble(tbs, signature, root.key_type)
        loaded = certificates.load(certificate)
        return IntermediateInstalled(
            datacenter=names.datacenter,
            root_id=root.root_id,
            signing_key_id=key_id,
            certificate=certificate,
            not_before=loaded.not_valid_before_utc,
            not_after=loaded.not_valid_after_utc,
        )

    async def _self_signed(self, names: Names, config: CAConfig, key: PublicKey) -> bytes:
        now = utc(self._clock.now())
        tbs = certificates.root_tbs(
            public_key=key,
            trust_domain=names.trust_domain,
            common_name=certificates.common_name("pri", names.cluster_id, self._entropy.token()),
            serial=self._entropy.serial(),
            not_before=now - certificates.CA_BACKDATE,
            not_after=now + timedelta(seconds=config.root_cert_ttl_seconds),
        )
        signature = await self._root_keys.sign(certificates.key_id(key), tbs)
        return certificates.assemble(tbs, signature, certificates.key_type_and_bits(key)[0])


def _configured(
    names: Names, config: CAConfig, request_id: str | None, *, force_without_cross_signing: bool
) -> CAConfigured:
    """Return the event, read back as every reader will read it."""
    told = CAConfigured(
        cluster_id=names.cluster_id,
        trust_domain=names.trust_domain,
        provider="consul",
        config=config,
        force_without_cross_signing=force_without_cross_signing,
        request_id=request_id,
    )
    try:
        CODEC.decode(told.TYPE, msgspec.json.encode(told))
    except msgspec.ValidationError as error:
        raise ConfigError(f"the authority cannot be configured like this: {error}") from error
    return told


def _spec(config: CAConfig, purpose: KeyPurpose) -> KeySpec:
    return KeySpec(key_type=config.private_key_type, bits=config.private_key_bits, purpose=purpose)


def _created(public_key: PublicKey, purpose: KeyPurpose, *, given: bool = False) -> KeyCreated:
    key_type, key_bits = certificates.key_type_and_bits(public_key)
    return KeyCreated(
        key_id=certificates.key_id(public_key),
        key_type=key_type,
        key_bits=key_bits,
        purpose=purpose,
        custody="sealed",
        origin="given" if given else "made",
    )
