"""Keys that were made and never recorded: left by a root-manager that ended in between."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from projections.authority import AuthorityState
from services.following import AuthorityFollower
from services.keys.interface import KeyStore, StoredKey

AGE_MIN: Final = timedelta(hours=1)  # far longer than any root-manager takes to record a key

log = structlog.get_logger()


async def destroy_unrecorded(
    stores: Sequence[KeyStore], follower: AuthorityFollower, *, now: datetime
) -> list[str]:
    """Destroy the keys that no event knows and that are an hour old; return their ids.

    The keys are listed *before* the fold: a key is made before it is recorded, so one that was
    listed and that a later fold does not know was not recorded when that fold began. The other way
    round, a key made and recorded between fold and list would look unrecorded, and the key that
    signs would be destroyed. One that is given or shared again meanwhile stays. The hour is for one
    whose record is still on its way. Raises BucketError, or LedgerError where the ledger cannot be
    read.
    """
    listed = [(store, key) for store in stores for key in await store.stored()]
    state = await follower.catch_up()
    destroyed = []
    for store, key in listed:
        if not _is_recorded(state, key) and now - key.created > AGE_MIN:
            await store.destroy(key)
            log.warning("a key that was never recorded is destroyed", key=key.key_id)
            destroyed.append(key.key_id)
    return destroyed


def _is_recorded(state: AuthorityState, key: StoredKey) -> bool:
    created = state.keys.get(key.key_id)
    if created is not None and created.purpose == key.purpose:
        return True
    return key.purpose == "signing" and key.key_id in state.shared
