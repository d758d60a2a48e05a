"""What a replicator tells Prometheus of the file that it keeps; read in the thread of who asks."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

from projections.disk import ProjectionFileError, ReplacedError
from projections.faults import FaultCounter
from projections.store import read_meta
from services.metrics import NAN
from services.observed import Observed


def observe(observed: Observed, path: Path) -> None:
    """Tell of a projections file."""
    counter = FaultCounter(path)

    def position() -> float:
        try:
            return read_meta(path).position
        except (OSError, ProjectionFileError, sqlite3.Error):  # there is none, or it is made anew
            return NAN

    def lag() -> float:
        behind = observed.last_sequence() - position()  # the first may be some seconds old
        return behind if math.isnan(behind) else max(behind, 0.0)

    def faults(kind: str) -> float:
        try:
            found = counter.look()
        except (OSError, ReplacedError, sqlite3.Error):
            return NAN
        return found.void.count if kind == "void" else found.irregular.count

    metrics = observed.metrics
    metrics.gauge(
        "caledger_projections_position",
        "The ledger's sequence up to which this node's projections are; NaN without a file.",
        position,
    )
    metrics.gauge(
        "caledger_projections_lag", "Entries that this node's projections are behind.", lag
    )
    metrics.gauge("caledger_void_entries", "Entries that were passed over.", lambda: faults("void"))
    metrics.gauge(
        "caledger_irregular_leaves",
        "Certificates on the ledger that break a rule.",
        lambda: faults("irregular"),
    )
    observed.health.require(
        "projections", lambda: "there are no projections yet" if math.isnan(position()) else None
    )
