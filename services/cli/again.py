"""The command line that was typed, to be typed again with something else in it: hints that work."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Final

_VALUED: Final = frozenset({"--request-id", "--fetch"})  # those of the options below with a value


def again(
    *said: str, without: Collection[str] = ("--request-id",), typed: Sequence[str] | None = None
) -> str:
    """Return what to type: all that was typed, also where and as whom, but for some options.

    `said`: what comes instead. `typed`: the arguments; else this process's own.
    """
    kept = list(_kept(sys.argv[1:] if typed is None else typed, without))
    place = kept.index("--") if "--" in kept else len(kept)
    return shlex.join(["caledger", *kept[:place], *said, *kept[place:]])


def with_values(option: str, *values: str, typed: Sequence[str] | None = None) -> list[str]:
    """Return what was typed, with other values of an option that is there and takes so many."""
    words = list(sys.argv[1:] if typed is None else typed)
    if option in words:
        place = words.index(option) + 1
        words[place : place + len(values)] = values
    return words


def _kept(typed: Sequence[str], without: Collection[str]) -> Iterator[str]:
    words = iter(typed)
    for word in words:
        if word == "--":
            yield from (word, *words)
        elif word.partition("=")[0] not in without:
            yield word
        elif word in _VALUED:
            next(words, None)
