"""Keys that no event knows: which are destroyed, and which must not be."""

from __future__ import annotations

from datetime import timedelta

from events.authority import KeyCreated
from events.memory import MemoryLedger
from events.subjects import Subjects
from services.clock import SystemClock, SystemEntropy
from services.following import AuthorityFollower
from services.keys.interface import KeySpec, StoredKey
from services.pki import certificates
from services.root_manager.unrecorded import destroy_unrecorded
from services.stamping import Stamper
from tests.factories import NOW
from tests.unit.services.root_manager.keys import KeysInMemory

SPEC = KeySpec(key_type="ec", bits=256, purpose="signing")
LATER = NOW + timedelta(hours=2)


class RecordedMeanwhile(KeysInMemory):
    """A store whose next key is made and recorded just when somebody lists the keys."""

    def __init__(self, ledger: MemoryLedger) -> None:
        super().__init__()
        self._ledger = ledger

    async def stored(self) -> list[StoredKey]:
        key_id = certificates.key_id(await self.create(SPEC))
        await record(self._ledger, key_id)
        return await super().stored()


async def record(ledger: MemoryLedger, key_id: str) -> None:
    event = KeyCreated(
        key_id=key_id, key_type="ec", key_bits=256, purpose="signing", custody="sealed"
    )
    stamper = Stamper("/caledger/dc1/root-manager/a", SystemClock(), SystemEntropy())
    await ledger.append_authority(
        [stamper.stamp(event, subject=key_id)],
        term=1,
        expected_sequence=await ledger.last_authority(),
    )


def follower(ledger: MemoryLedger) -> AuthorityFollower:
    return AuthorityFollower(ledger, "dc1")


async def test_an_old_key_that_no_event_knows_is_destroyed_and_no_other() -> None:
    ledger, keys = MemoryLedger(Subjects("dc1")), KeysInMemory()
    recorded, left = [certificates.key_id(await keys.create(SPEC)) for _ in range(2)]
    await record(ledger, recorded)
    keys.clock.forward(LATER - NOW - timedelta(minutes=59))
    young = certificates.key_id(await keys.create(SPEC))

    assert await destroy_unrecorded([keys], follower(ledger), now=LATER) == [left]
    assert {key.key_id for key in await keys.stored()} == {recorded, young}


async def test_a_key_that_is_recorded_while_keys_are_listed_is_never_destroyed() -> None:
    """Folding first and listing afterwards would destroy the key that signs."""
    ledger = MemoryLedger(Subjects("dc1"))
    keys = RecordedMeanwhile(ledger)
    behind = follower(ledger)
    await behind.catch_up()

    assert await destroy_unrecorded([keys], behind, now=LATER) == []
