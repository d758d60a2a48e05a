"""Which signer signs for which partitions: balanced, moving as little as possible, pure."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Annotated, Final

from msgspec import Meta

from events.authority import CAConfig
from events.base import PARTITIONS, Struct, Token, Ulid
from events.signers import Assignment

SIGNERS_MAX: Final = 999  # grants that fit one atomic append beside its authority entry


class SignerRun(Struct):
    """A signer as its lease says: one run of a process."""

    signer: Ulid
    node: Token
    slot: Annotated[int, Meta(ge=0)]
    stopping: bool = False


def usable(alive: Iterable[SignerRun]) -> list[SignerRun]:
    """Return the runs that may be given partitions, by signer.

    Not those that are stopping; and of one node and slot only the newest (run ids carry their
    time): the others are its predecessors, whose leases have not ended yet.
    """
    newest: dict[tuple[str, int], SignerRun] = {}
    for run in sorted(alive, key=lambda run: run.signer):
        if not run.stopping:
            newest[run.node, run.slot] = run
    return sorted(newest.values(), key=lambda run: run.signer)[:SIGNERS_MAX]


def unassigned(granted: Iterable[Assignment]) -> set[int]:
    """Return the partitions that nobody has a grant for."""
    return set(range(PARTITIONS)).difference(*(grant.partitions for grant in granted))


def assign(
    current: Mapping[str, Assignment],
    alive: Iterable[SignerRun],
    *,
    signing_key_id: str,
    config: CAConfig,
) -> tuple[Assignment, ...]:
    """Return the whole table, by signer: every partition has one signer while any is usable.

    A signer beyond the 64th has no partition, and so no place in the table: its share of the rate
    would be 0, which means "no limit". Nor has one beyond CSRMaxConcurrent.

    The shares of either limit sum up to it, whoever comes and goes; CSRMaxPerSecond wins over
    CSRMaxConcurrent where both are set, as in Consul (section 3.9).
    """
    runs = usable(alive)
    concurrent = 0 if config.csr_max_per_second > 0 else config.csr_max_concurrent
    if concurrent:
        runs = _at_most(concurrent, runs, current)
    owned = _balance(_inherited(current, runs), [run.signer for run in runs])
    holding = [run for run in runs if owned[run.signer]]
    at_once = _shares(concurrent, len(holding))
    return tuple(
        Assignment(
            signer=run.signer,
            node=run.node,
            slot=run.slot,
            partitions=tuple(owned[run.signer]),
            signing_key_id=signing_key_id,
            rate_per_second=_rate(config.csr_max_per_second, len(owned[run.signer])),
            concurrent=share,
        )
        for run, share in zip(holding, at_once, strict=True)
    )


def _at_most(
    count: int, runs: Sequence[SignerRun], current: Mapping[str, Assignment]
) -> list[SignerRun]:
    """Return so many of the runs, those first that hold partitions."""
    kept = sorted(runs, key=lambda run: (run.signer not in current, run.signer))[:count]
    return sorted(kept, key=lambda run: run.signer)


def _rate(limit: float, partitions: int) -> float:
    """Return the share of so many partitions: however small, it is not 0 where there is a limit."""
    return max(limit * partitions / PARTITIONS, sys.float_info.min) if limit > 0 else 0.0


def _shares(total: int, parts: int) -> list[int]:
    """Split a whole number; of none, everybody has none."""
    share, odd = divmod(total, parts) if parts else (0, 0)
    return [share + (place < odd) for place in range(parts)]


def _inherited(
    current: Mapping[str, Assignment], runs: Sequence[SignerRun]
) -> dict[str, list[int]]:
    """Return what each run has already: its own, and what its predecessor on its slot had."""
    owned: dict[str, list[int]] = {run.signer: [] for run in runs}
    on_slot = {(run.node, run.slot): run.signer for run in runs}
    taken: set[int] = set()
    for signer in sorted(current):
        assignment = current[signer]
        heir = signer if signer in owned else on_slot.get((assignment.node, assignment.slot))
        if heir is not None:
            owned[heir] += [p for p in assignment.partitions if p not in taken]
            taken.update(assignment.partitions)
    return {signer: sorted(partitions) for signer, partitions in owned.items()}


def _balance(owned: Mapping[str, list[int]], signers: Sequence[str]) -> dict[str, list[int]]:
    """Spread 64 partitions evenly; who has most keeps the odd ones, so that the fewest move."""
    if not signers:
        return {}
    share, odd = divmod(PARTITIONS, len(signers))
    by_size = sorted(signers, key=lambda signer: (-len(owned[signer]), signer))
    target = {signer: share + (place < odd) for place, signer in enumerate(by_size)}
    kept = {signer: owned[signer][: target[signer]] for signer in signers}
    held = {partition for partitions in kept.values() for partition in partitions}
    free = iter(sorted(set(range(PARTITIONS)) - held))
    return {
        signer: sorted([*kept[signer], *islice(free, target[signer] - len(kept[signer]))])
        for signer in signers
    }
