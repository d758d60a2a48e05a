"""Every projection there is: the only list."""

from __future__ import annotations

from typing import Final

from projections import entries, issuance_rows, leadership, signers
from projections.projection import Projection

PROJECTIONS: Final[tuple[Projection, ...]] = (
    entries.PROJECTION,
    leadership.PROJECTION,
    signers.PROJECTION,
    issuance_rows.PROJECTION,
)
