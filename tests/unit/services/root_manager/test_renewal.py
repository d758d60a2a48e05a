"""When an intermediate is renewed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from msgspec.structs import replace

from services.pki import certificates
from services.root_manager.renewal import JITTER, due_at, is_due
from tests.virtual import Datacenter, run

INSTANT = timedelta(microseconds=1)


async def test_24_at_exactly_half_its_life_an_intermediate_is_renewed(tmp_path: Path) -> None:
    """24. lessThanHalfTimePassed: exactly half -> false. Ours adds a share of a tenth of the life.

    The share follows from the key id: this one has none, and none has more than the whole.
    """
    async with Datacenter.open(tmp_path) as dc:
        state = await dc.signers(run(1))
        issuer = state.issuer
        assert issuer is not None
        certificate = certificates.load(issuer.certificate)
        begin = certificate.not_valid_before_utc
        life = certificate.not_valid_after_utc - begin
        without, whole = replace(issuer, key_id="0" * 64), replace(issuer, key_id="f" * 64)
        state = replace(state, issuers={"0": without}, issuer_key_id="0")

        assert not is_due(state, begin + life / 2 - INSTANT)
        assert is_due(state, begin + life / 2)
        assert is_due(state, begin + life / 2 + INSTANT)
        assert due_at(whole) == begin + life * (0.5 + JITTER)
        assert begin + life / 2 <= due_at(issuer) <= begin + life * 0.6
