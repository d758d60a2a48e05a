"""The names that are asked for before a datacenter calls itself ready."""

from __future__ import annotations

from events.base import PARTITIONS
from events.subjects import partition_of
from services.readiness import probe_names


def test_every_partition_is_asked() -> None:
    asked = [partition_of("service", name) for name in probe_names()]

    assert asked == list(range(PARTITIONS))
