"""The CA manager: does what is due, one step after the other, while its node leads.

Everything that it acts on comes from the ledger, so a crash between any two steps is finished or
given up by whoever leads next, through these same steps.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

import structlog

from services.root_manager import ceremony
from services.root_manager.attempts import Attempts
from services.root_manager.commands import AssignSigners, Initialise
from services.root_manager.configuration import Wanted
from services.root_manager.crls import Crls
from services.root_manager.decide import leads
from services.root_manager.pruning import Pruning
from services.root_manager.renewal import Renewals
from services.root_manager.revocation import Reissues, Revocations
from services.root_manager.rotation import Rotations
from services.root_manager.tools import Tools, Turn, moved_on
from services.root_manager.unrecorded import destroy_unrecorded

SWEEP_EVERY: Final = timedelta(minutes=10)  # looking for keys that were never recorded
TIDY_EVERY: Final = timedelta(minutes=1)  # looking for what expired
MADE_MAX_AGE: Final = timedelta(minutes=10)  # what was made and not recorded is used; below AGE_MIN

log = structlog.get_logger()


class CaManager:
    """One run of a CA manager.

    `initial` reads the configuration that an empty ledger begins with; `publish` brings the trust
    bundle out, and returns once everybody can read it; `tell_reissue` sends what `Reissues` says.
    """

    def __init__(
        self,
        tools: Tools,
        *,
        initial: Callable[[], Wanted],
        trust_domain: str | None,
        publish: Callable[[Turn], Awaitable[None]],
        tell_reissue: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self.tools = tools
        self.attempts = Attempts(tools.clock)
        self.rotations = Rotations(tools)
        self.renewals = Renewals(tools)
        self.pruning = Pruning(tools)
        self.crls = Crls(tools, self.attempts)
        self.revocations = Revocations(tools)
        self.reissues = Reissues(tools, tell_reissue)
        self.initialising = False
        self._initial = initial
        self._trust_domain = trust_domain
        self.publish = publish
        self._made: tuple[Initialise, datetime] | None = None
        self._swept = (0, datetime.min.replace(tzinfo=tools.clock.now().tzinfo))
        self._tidied = (0, self._swept[1])

    async def act(self, turn: Turn) -> None:
        """Do everything that is due.

        Raises LedgerError (BucketError among them): the world failed, and the next turn tries
        again. A provider that fails is logged, and tried again later.
        """
        tools, attempt = self.tools, self.attempts.attempt
        if not leads(await tools.follower.catch_up(), turn.acting):
            return
        if tools.state.configuration is None:
            await attempt("making the first authority", lambda: self.initialise(turn))
        await self.publish(turn)
        if tools.state.rotation is not None:
            await attempt("rotating", lambda: self.rotations.go_on(turn))
        await attempt("renewing the intermediate", lambda: self.renewals.go_on(turn))
        await tools.carry_out(turn.acting, AssignSigners(alive=turn.alive))
        await self._tidy(turn)
        await self.publish(turn)
        await self._sweep(turn)

    async def initialise(self, turn: Turn, wanted: Wanted | None = None) -> bool:
        """Make the authority, as wanted, or as the node's configuration says it is to begin.

        What was made is kept for the next try, should recording it fail. Raises as providers do;
        and RefusedError `conflict` where it was wanted and somebody else was first.
        """
        tools = self.tools
        self.initialising = True
        try:
            now = tools.clock.now()
            if wanted is not None or self._made is None or now - self._made[1] > MADE_MAX_AGE:
                self._made = None
                asked = wanted or self._initial()
                names = ceremony.name_authority(tools.datacenter, self._trust_domain, tools.entropy)
                made = await tools.ceremony.authority(
                    names,
                    asked.config,
                    given=asked.private_key,
                    force_without_cross_signing=asked.force_without_cross_signing,
                    request_id=asked.request_id,
                )
                self._made = (made, now)
            initialise, _ = self._made
            done = await tools.carry_out(turn.acting, initialise)
            self._made = None
        finally:
            self.initialising = False
        if not done and wanted is not None:
            raise moved_on()
        if done:
            log.info(
                "initialized primary datacenter CA with provider",
                trust_domain=initialise.configured.trust_domain,
                root=initialise.root.root_id,
            )
        return done

    async def _tidy(self, turn: Turn) -> None:
        """Look for what expired or was revoked: whenever the ledger moved on, and every minute."""
        position, at = self._tidied
        looked = (self.tools.state.position, self.tools.clock.now())
        if position == looked[0] and timedelta(0) <= looked[1] - at < TIDY_EVERY:
            return
        if self.tools.state.configuration is None:
            return
        attempt = self.attempts.attempt
        await attempt("pruning roots", lambda: self.pruning.roots(turn))
        await attempt("issuing revocation lists", lambda: self.crls.issue(turn))
        await self.reissues.tell()
        await attempt("destroying keys", lambda: self.pruning.keys(turn))
        self._tidied = looked  # where the world failed before this, the next turn looks again

    async def _sweep(self, turn: Turn) -> None:
        """Clean up when a term begins, and now and then."""
        term, at = self._swept
        now = self.tools.clock.now()
        if term == turn.acting.term and timedelta(0) <= now - at < SWEEP_EVERY:
            return
        self._swept = (turn.acting.term, now)
        await destroy_unrecorded(
            [self.tools.root_keys, self.tools.signing_keys], self.tools.follower, now=now
        )
