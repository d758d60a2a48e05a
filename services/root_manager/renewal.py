"""The intermediate is renewed at half its life, in two appends, so that a crash is seen."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import structlog

from events.authority import IntermediateRequested
from projections import bridges
from projections.authority import AuthorityState, Issuer
from services.breakpoints import reached
from services.pki import certificates
from services.root_manager.commands import InstallIntermediate, RequestIntermediate
from services.root_manager.tools import Tools, Turn

JITTER: Final = 0.1  # of the life, at most, after its half: datacenters do not renew all at once
USEFUL_SHARE: Final = 0.25  # of the life: a renewal that adds less is none

log = structlog.get_logger()


def due_at(issuer: Issuer) -> datetime:
    """Return when an intermediate is to be renewed: at half its life (Consul, 3.11), and some more.

    How much more follows from its key id, so that every leader says the same.
    """
    begin, _, life = _validity(issuer)
    share = int(issuer.key_id[:8], 16) / 0xFFFFFFFF
    return begin + life * (0.5 + JITTER * share)


def is_due(state: AuthorityState, now: datetime) -> bool:
    """Say whether a renewal is to begin."""
    issuer, root = state.issuer, state.active_root
    if issuer is None or root is None or state.configuration is None:
        return False
    if state.rotation is not None or state.renewal is not None:
        return False
    if issuer.certificate == root.published.certificate:
        return False
    if issuer.chain[1:] != bridges.above(state, root, now):
        return True  # what goes with each leaf has ended, or leads the longer way
    if now < due_at(issuer):
        return False
    # Where the root ends soon, a new intermediate ends with it: it would be renewed for ever.
    config = state.configuration.config
    new_end = min(
        now + timedelta(seconds=config.intermediate_cert_ttl_seconds), root.published.not_after
    )
    _, end, life = _validity(issuer)
    return new_end - end >= life * USEFUL_SHARE


def _validity(issuer: Issuer) -> tuple[datetime, datetime, timedelta]:
    certificate = certificates.load(issuer.certificate)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin, end, end - begin


class Renewals:
    """Renews the intermediate."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def go_on(self, turn: Turn) -> None:
        """Begin a renewal that is due, and finish what is on its way; raises KeyStoreError."""
        tools = self._tools
        if is_due(tools.state, tools.clock.now()):
            await self._begin(turn)
        renewal = tools.state.renewal
        root, configuration = tools.state.active_root, tools.state.configuration
        if renewal is None or root is None or configuration is None:
            return
        if tools.state.rotation is not None:
            return  # the new root makes its own, and this one is needed if it is given up
        installed = await tools.ceremony.intermediate(
            tools.names,
            configuration.config,
            root.published,
            renewal.requested.signing_key_id,
        )
        reached("renewal.signed")
        command = InstallIntermediate(installed=installed, alive=turn.alive)
        if not await tools.carry_out(turn.acting, command):
            return
        reached("renewal.installed")
        log.info(
            "generated new intermediate certificate for primary datacenter",
            key=installed.signing_key_id,
            until=str(installed.not_after),
        )

    async def _begin(self, turn: Turn) -> None:
        tools = self._tools
        root, configuration = tools.state.active_root, tools.state.configuration
        assert root is not None
        assert configuration is not None
        key = await tools.ceremony.signing_key(configuration.config)
        reached("renewal.key_made")
        requested = IntermediateRequested(
            datacenter=tools.datacenter,
            root_id=root.published.root_id,
            signing_key_id=key.key_id,
        )
        await tools.carry_out(turn.acting, RequestIntermediate(key=key, requested=requested))
        reached("renewal.requested")
