"""What our documents show: blocks of code that tests run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
README: Final = ROOT / "README.md"
CLUSTER: Final = ROOT / "docs" / "cluster.md"


def example(document: Path, name: str) -> str:
    """Return the block of code that stands under this name."""
    found = re.search(
        rf"<!-- test: {re.escape(name)} -->\n```\w+\n(.*?)\n```", document.read_text(), re.DOTALL
    )
    assert found is not None, f"{document.name} has no example {name}"
    return found[1]
