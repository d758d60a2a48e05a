"""How Consul's decoders compare the names of keys: whatever their case, underscores or not."""

from __future__ import annotations


def plain(name: str) -> str:
    """Return what two spellings of one name have in common."""
    return name.replace("_", "").lower()
