"""How long a rotation takes, to the last watcher: `python -m tests.benchmarks.rotation`.

The real thing (`caledger dev`) with a crowd that watches, and nothing else to do; in the same run
what the machine needs at least: two keys, three signatures (the root by itself and by the old one,
and the intermediate), and six writes that are flushed (two keys, two entries, two bundles). Making
an RSA key takes now less, now more: medians hide that only in part. No assertion on time.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.hashes import SHA256

from events.base import Struct
from services.keys.interface import KeySpec
from services.keys.sealed import generate
from tests.benchmarks.issuance import cpu_seconds
from tests.scenarios.caledger import Caledger
from tests.scenarios.checking import signing
from tests.scenarios.test_rotations_under_load import KINDS, Administrator, Rotated, Rotation
from tests.scenarios.watching import watching

KEYS, SIGNATURES, WRITES = 2, 3, 6  # of one rotation
SAMPLES = 8


class Limit(Struct):
    """What one kind of key, and the disk, cost on this machine; in seconds, medians."""

    make: float
    sign: float
    write: float

    @property
    def rotation(self) -> float:
        """The least that a rotation takes, in seconds."""
        return KEYS * self.make + SIGNATURES * self.sign + WRITES * self.write


def machine_limit(folder: Path, kind: tuple[str, int]) -> Limit:
    """Measure what a rotation to this kind of key cannot do without."""
    key_type, bits = kind
    spec = KeySpec(key_type="rsa" if key_type == "rsa" else "ec", bits=bits, purpose="root")
    made, signed, written = [], [], []
    for _ in range(SAMPLES):
        began = time.perf_counter()
        key = generate(spec)
        made.append(time.perf_counter() - began)
        began = time.perf_counter()
        if isinstance(key, ec.EllipticCurvePrivateKey):
            key.sign(b"certificate", ec.ECDSA(SHA256()))
        else:
            key.sign(b"certificate", padding.PKCS1v15(), SHA256())
        signed.append(time.perf_counter() - began)
        began = time.perf_counter()
        with (folder / "flushed").open("ab") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        written.append(time.perf_counter() - began)
    return Limit(
        make=statistics.median(made),
        sign=statistics.median(signed),
        write=statistics.median(written),
    )


async def measure(folder: Path, *, watchers: int, readers: int, rotations: int) -> None:
    """Rotate to each kind so many times, and print what it took."""
    async with Caledger(folder) as caledger:
        await signing(caledger, 2)
        before = KINDS[0]
        async with watching(
            caledger, watchers=watchers, readers=readers, connections=min(100, watchers)
        ) as crowd:
            administrator = Administrator(await caledger.client(), crowd)
            for kind in KINDS:
                limit = await asyncio.to_thread(machine_limit, folder, kind)
                used = cpu_seconds(caledger.pids())
                rotated = []
                for _ in range(rotations):
                    asked = Rotation(before=before, after=kind, wait_seconds=0.0, crossed=True)
                    rotated.append(await administrator.rotate(asked))
                    before = kind
                after = cpu_seconds(caledger.pids())
                cpu = {name: (after[name] - used[name]) / rotations for name in used}
                print(report(kind, limit, rotated, cpu), flush=True)
            await crowd.end()


def report(
    kind: tuple[str, int], limit: Limit, rotated: list[Rotated], cpu: dict[str, float]
) -> str:
    """Say what was measured, as ratios to the limit."""
    active = statistics.median(one.active - one.began for one in rotated)
    everywhere = statistics.median(one.everywhere - one.began for one in rotated)
    costs = ", ".join(f"{name} {used * 1e3:.0f}" for name, used in cpu.items())
    return (
        f"{kind[0]} {kind[1]}: at least {limit.rotation * 1e3:.0f} ms (a key {limit.make * 1e3:.1f}"
        f", a signature {limit.sign * 1e3:.2f}, a write {limit.write * 1e3:.2f}); signs after "
        f"{active * 1e3:.0f} ms, {active / limit.rotation:.1f} times that; the last watcher knows "
        f"after {everywhere * 1e3:.0f} ms, {everywhere / limit.rotation:.1f} times\n"
        f"  CPU ms a rotation: {costs}"
    )


def main(
    watchers: Annotated[int, typer.Option(help="Who watches the bundle.")] = 1000,
    readers: Annotated[int, typer.Option(help="Of them, by our client's watch_roots.")] = 0,
    rotations: Annotated[int, typer.Option(help="To each kind of key.")] = 5,
) -> None:
    """Measure rotations on this machine."""
    print(f"{watchers} watchers, {readers} of them by our client; medians of {rotations} rotations")
    with tempfile.TemporaryDirectory(prefix="caledger-bench-") as folder:
        asyncio.run(measure(Path(folder), watchers=watchers, readers=readers, rotations=rotations))


if __name__ == "__main__":
    typer.run(main)
