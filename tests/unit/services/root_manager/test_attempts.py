"""What fails is a provider's fault unless it is known to be another's; it costs no leadership."""

from __future__ import annotations

from pathlib import Path

import pytest

from events.catalogue import UnknownEventTypeError
from events.log import ConflictError, GapError, LedgerError, OutcomeUnknownError
from services.buckets import BucketError
from services.keys.interface import KeyStoreError
from services.pki.certificates import CertificateError
from services.root_manager.attempts import Attempts
from tests.clocks import FixedClock
from tests.factories import NOW
from tests.unit.services.root_manager.keys import KeysInMemory
from tests.virtual import Datacenter, run


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyStoreError("away"), "away"),
        (CertificateError("no CA"), "no CA"),
        (RuntimeError("whatever"), "RuntimeError: whatever"),
        (ZeroDivisionError(), "ZeroDivisionError: "),
        (ValueError("Invalid key"), "ValueError: Invalid key"),
        (TimeoutError(), "TimeoutError: "),
    ],
)
async def test_whatever_a_provider_raises_is_remembered_and_tried_again_later(
    error: Exception, reason: str
) -> None:
    attempts = Attempts(FixedClock(NOW))
    tries = []

    async def action() -> None:
        tries.append(1)
        raise error

    assert not await attempts.attempt("it", action)
    assert not await attempts.attempt("it", action)

    [failure] = attempts.failures
    assert (failure.what, failure.reason, failure.count) == ("it", reason, 1)
    assert len(tries) == 1


@pytest.mark.parametrize(
    "error",
    [
        LedgerError("away"),
        BucketError("away"),
        ConflictError("authority", 7),
        OutcomeUnknownError("nobody knows"),
        GapError("7 is missing"),
        UnknownEventTypeError("caledger.root.v9"),
        AssertionError("decided after an append whose outcome is unknown"),
    ],
)
async def test_what_is_no_providers_fault_goes_on_to_who_runs_this(error: Exception) -> None:
    attempts = Attempts(FixedClock(NOW))

    async def action() -> None:
        raise error

    with pytest.raises(type(error)):
        await attempts.attempt("it", action)

    assert attempts.failures == ()


class Broken(KeysInMemory):
    """Root keys of a driver with a fault of its own."""

    async def sign(self, key_id: str, message: bytes) -> bytes:
        raise RuntimeError(f"{key_id}: not of this world")


async def test_26_a_driver_with_a_fault_costs_no_leadership(tmp_path: Path) -> None:
    """26. A provider that fails does not prevent leadership, in whichever way it fails."""
    async with Datacenter.open(tmp_path) as dc:
        dc.root_keys, whole = Broken("root", clock=dc.clock), dc.root_keys
        await dc.new_leader()

        state = await dc.signers(run(1))

        assert state.leader is not None
        assert state.configuration is None
        [failure] = dc.manager.attempts.failures
        assert failure.reason.startswith("RuntimeError: ")
        assert "not of this world" in failure.reason
        dc.root_keys = whole
        await dc.new_leader()
        assert (await dc.act()).ca_state == "INITIALIZED"
