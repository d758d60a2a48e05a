"""What an administrator has the CA manager do: one method for each command, typed.

A command carries a request id, so after a NoAnswerError the same call with the same id is safe: it
is carried out once, and the second time it is told what it came to (services/root_manager). Without
one each call makes its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from events.base import Struct
from events.revocation import RevocationReason
from services.client import ANSWER_SECONDS, CaClient
from services.clock import SystemClock, SystemEntropy
from services.consul_names import plain

COMMAND_SECONDS: Final = 60.0  # RSA keys of 4096 bits and lists of many thousands take their time


class ChosenLeaves(Struct, omit_defaults=True, rename="pascal"):
    """Which leaves a revocation means: one way to choose, or a time that it is restricted to."""

    serials: tuple[str, ...] | None = None  # hex, with colons or without
    identity: str | None = None  # SPIFFE id
    signer: str | None = None  # run id
    root_id: str | None = msgspec.field(name="RootID", default=None)
    issued_from: datetime | None = None
    issued_to: datetime | None = None  # before


class AdministrationClient:
    """The commands of one administrator, over the connection of a CaClient.

    Every method returns the answer's JSON: `services.outcomes` has its types. Every method may
    raise NoAnswerError, NotPermittedError, or RefusedError where the CA says no.
    """

    def __init__(self, client: CaClient) -> None:
        self._client = client
        self._subjects = client.subjects

    async def get_config(self, *, timeout: float = ANSWER_SECONDS) -> bytes:
        """Return the CA's configuration, Consul's JSON; a secret is never in it (H12)."""
        return await self._client.request(self._subjects.config_get, b"", timeout)

    async def set_config(
        self,
        configuration: Mapping[str, Any],
        *,
        modify_index: int | None = None,
        force_without_cross_signing: bool | None = None,
        wait_seconds: float | None = None,
        request_id: str | None = None,
        timeout: float = COMMAND_SECONDS,
    ) -> bytes:
        """Replace the configuration; returns an Outcome.

        `configuration` is Consul's JSON in either form; what is given beside it takes the place of
        what it says itself. `modify_index`: of the configuration that it is to replace.
        `wait_seconds`: between the publication of a new root, where there is to be one, and its
        first leaf.
        """
        body = overridden(
            configuration,
            ModifyIndex=modify_index,
            ForceWithoutCrossSigning=force_without_cross_signing,
            WaitSeconds=wait_seconds,
            RequestID=request_id or new_request_id(),
        )
        return await self._command(self._subjects.config_set, body, timeout)

    async def plan(
        self,
        configuration: Mapping[str, Any],
        *,
        modify_index: int | None = None,
        force_without_cross_signing: bool | None = None,
        wait_seconds: float | None = None,
        request_id: str | None = None,
        timeout: float = COMMAND_SECONDS,
    ) -> bytes:
        """Return what `set_config` with the same arguments would do, a Planned; nothing is done.

        `request_id`: of a command that may have been carried out already; then nothing would be.
        """
        body = overridden(
            configuration,
            ModifyIndex=modify_index,
            ForceWithoutCrossSigning=force_without_cross_signing,
            WaitSeconds=wait_seconds,
            RequestID=request_id,
        )
        return await self._command(self._subjects.config_plan, body, timeout)

    async def rotate(
        self,
        *,
        wait_seconds: float = 0.0,
        force_without_cross_signing: bool = False,
        dry_run: bool = False,
        request_id: str | None = None,
        timeout: float = COMMAND_SECONDS,
    ) -> bytes:
        """Rotate to a new root of the same configuration; returns an Outcome.

        `dry_run`: only says what that would do; returns a Planned.
        """
        body = {
            "RequestID": request_id or new_request_id(),
            "WaitSeconds": wait_seconds,
            "ForceWithoutCrossSigning": force_without_cross_signing,
            "DryRun": dry_run,
        }
        return await self._command(self._subjects.rotation_start, body, timeout)

    async def abort_rotation(
        self,
        *,
        reason: str = "asked for",
        request_id: str | None = None,
        timeout: float = COMMAND_SECONDS,
    ) -> bytes:
        """Give up the rotation that is on its way; returns an Outcome."""
        body = {"RequestID": request_id or new_request_id(), "Reason": reason}
        return await self._command(self._subjects.rotation_abort, body, timeout)

    async def prune(
        self,
        root_id: str,
        *,
        force: bool = False,
        dry_run: bool = False,
        request_id: str | None = None,
        timeout: float = COMMAND_SECONDS,
    ) -> bytes:
        """Trust a retired root no more; `force`: although leaves below it live on."""
        body = {
            "RequestID": request_id or new_request_id(),
            "RootID": root_id,
            "Force": force,
            "DryRun": dry_run,
        }
        return await self._command(self._subjects.roots_prune, body, timeout)

    async def revoke(
        self,
        leaves: ChosenLeaves,
        *,
        reason: RevocationReason = "unspecified",
        dry_run: bool = False,
        request_id: str | None = None,
        timeout: float = COMMAND_SECONDS,
    ) -> bytes:
        """Revoke leaves, and have the lists that say so issued; returns an Outcome.

        `dry_run`: only says how many live leaves that would be, and whose.
        """
        body = {
            "RequestID": request_id or new_request_id(),
            "Leaves": leaves,
            "Reason": reason,
            "DryRun": dry_run,
        }
        return await self._command(self._subjects.leaves_revoke, body, timeout)

    async def revocation_lists(
        self, *, issuer: str | None = None, timeout: float = ANSWER_SECONDS
    ) -> bytes:
        """Return the revocation lists of all issuers that are trusted, or of one (its key id)."""
        body = msgspec.json.encode({"Issuer": issuer} if issuer is not None else {})
        return await self._client.request(self._subjects.crl_get, body, timeout)

    async def _command(self, subject: str, body: Mapping[str, Any], timeout: float) -> bytes:
        return await self._client.request(subject, msgspec.json.encode(body), timeout)


def new_request_id() -> str:
    """Return an id for one request."""
    return SystemEntropy().ulid(SystemClock().now())


def overridden(configuration: Mapping[str, Any], **said: Any) -> dict[str, Any]:
    """Return a configuration that says this, in whichever form it said it before."""
    said = {name: value for name, value in said.items() if value is not None}
    names = {plain(name) for name in said}
    return {
        **{name: value for name, value in configuration.items() if plain(name) not in names},
        **said,
    }
