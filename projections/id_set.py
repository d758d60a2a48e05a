"""A set of ids that grows at every step of a fold, and is never copied as a whole for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from events.base import Struct


class IdSet(Struct):
    """Immutable: `with_ids` returns another set, and what was stays what it was.

    Blocks, each more than twice as large as the next; smaller ones are merged as ids come, so that
    an id is copied log n times in all, and a look-up asks log n blocks.
    """

    blocks: tuple[frozenset[str], ...] = ()

    def with_ids(self, ids: Iterable[str]) -> Self:
        """Return the set with these ids in it, too."""
        block, blocks = frozenset(ids), list(self.blocks)
        while blocks and len(blocks[-1]) <= 2 * len(block):
            block |= blocks.pop()
        return type(self)(blocks=(*blocks, block))

    def among(self, ids: Iterable[str]) -> frozenset[str]:
        """Return which of these ids are in the set."""
        return frozenset(one for one in ids if any(one in block for block in self.blocks))
