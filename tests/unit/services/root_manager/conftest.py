"""What tests of the CA manager in virtual time begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.virtual import Datacenter, run


@pytest.fixture
async def dc(tmp_path: Path) -> AsyncIterator[Datacenter]:
    """A datacenter with an authority and two signers."""
    async with Datacenter.open(tmp_path) as datacenter:
        await datacenter.signers(run(1), run(2))
        yield datacenter
