"""How fast certificates come, and what each costs: `python -m tests.benchmarks.issuance`.

The real thing (`caledger dev`: accounts, fsync on every entry, replicator and all), loaded by a
process of its own on the same machine; in the same run what the machine could do at most, with one
verification and one signature a certificate and nothing else. With more requests in flight entries
hold more certificates, and each costs less: 64 and 256 of them are measured. No assertion on time.
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tests.benchmarks.load import Asked, Load
from tests.scenarios.caledger import Caledger

TRUST_DOMAIN = "bench.caledger.test"
TICKS = os.sysconf("SC_CLK_TCK")


class Limit(msgspec.Struct):
    """What P-256 allows on this machine, in one process for each core."""

    sign: float  # seconds
    verify: float
    cores: int

    @property
    def per_second(self) -> float:
        """Certificates a second, on all cores."""
        return self.cores / (self.sign + self.verify)


class Run(msgspec.Struct):
    """One number of signers, measured."""

    signers: int
    clients: int  # requests in flight
    asked: Asked
    cpu: dict[str, float]  # program -> CPU seconds while it was measured


def machine_limit(seconds: int) -> Limit:
    """Measure with `openssl speed`, by CPU time, all cores busy."""
    cores = len(os.sched_getaffinity(0))
    command = ["openssl", "speed", "-seconds", str(seconds), "-mr", "ecdsap256"]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(cores)
    ]
    told = [process.communicate()[0] for process in running]
    rates = [re.search(r"^\+F4:\d+:256:([0-9.]+):([0-9.]+)$", text, re.MULTILINE) for text in told]
    found = [(1 / float(rate[1]), 1 / float(rate[2])) for rate in rates if rate]
    assert len(found) == cores, told
    return Limit(
        sign=sum(sign for sign, _ in found) / cores,
        verify=sum(verify for _, verify in found) / cores,
        cores=cores,
    )


def cpu_seconds(pids: dict[str, int]) -> dict[str, float]:
    """Return the CPU time that each program has used."""
    used = {}
    for program, pid in pids.items():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used[program] = (int(fields[11]) + int(fields[12])) / TICKS
    return used


async def measure(
    folder: Path, *, signers: int, seconds: float, clients: int, identities: int
) -> Run:
    """Start a datacenter, load it, and see what it took."""
    arguments = ("--signers", str(signers), "--trust-domain", TRUST_DOMAIN)
    async with Caledger(folder, *arguments) as caledger:
        load = Load(
            host="127.0.0.1",
            port=caledger.port,
            creds=str(caledger.data / "nats" / "context" / "admin.creds"),
            user="admin",
            datacenter="dc1",
            trust_domain=TRUST_DOMAIN,
            name="load",
            clients=clients,
            identities=identities,
            seconds=seconds,
            warm_up_seconds=1.0,
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.benchmarks.load"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=64 * 1024 * 1024,
        )
        try:
            async with asyncio.timeout(load.warm_up_seconds + load.seconds + 60):
                asked, cpu = await _watch(process, load, caledger)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return Run(signers=signers, clients=clients, asked=asked, cpu=cpu)


async def _watch(
    process: asyncio.subprocess.Process, load: Load, caledger: Caledger
) -> tuple[Asked, dict[str, float]]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode(load))
    process.stdin.close()
    assert await process.stdout.readline() == b"measuring\n"
    before = cpu_seconds(caledger.pids())
    assert await process.stdout.readline() == b"measured\n"
    after = cpu_seconds(caledger.pids())
    asked = msgspec.json.decode(await process.stdout.readline(), type=Asked)
    assert await process.wait() == 0
    return asked, {program: after[program] - before[program] for program in before}


def report(run: Run, limit: Limit) -> str:
    """Say what was measured, as ratios to the limit where that tells more."""
    asked = run.asked
    rate = asked.issued / asked.seconds
    each = 1e6 / max(1, asked.issued)
    cpu = {
        "signers": sum(used for name, used in run.cpu.items() if name.startswith("signer")),
        "nats-server": run.cpu["nats-server"],
        "replicator": run.cpu["replicator"],
        "load": asked.cpu_seconds,
    }
    cpu["rest"] = sum(run.cpu.values()) + asked.cpu_seconds - sum(cpu.values())
    latencies = statistics.quantiles(asked.latencies, n=100)
    cost = ", ".join(f"{name} {used * each:.0f}" for name, used in cpu.items())
    times = cpu["signers"] * each / 1e6 / (limit.sign + limit.verify)
    entry = asked.issued / max(1, len(asked.sequences))
    p50, p99, longest = latencies[49] * 1e3, latencies[98] * 1e3, max(asked.latencies) * 1e3
    times_taken = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {longest:.1f} ms"
    head = f"{run.signers} signer(s), {run.clients} clients: {rate:.0f}/s"
    total = sum(cpu.values()) * each
    share = (limit.sign + limit.verify) * 1e6 / total
    lines = [
        f"{head}, {rate / limit.per_second:.1%} of the limit",
        f"  {asked.issued} certificates in {asked.seconds:.1f} s, {entry:.1f} an entry",
        f"  {times_taken}; asked again {asked.asked_again} times",
        f"  CPU us a certificate: {cost}; signers {times:.1f} x (verify + sign)",
        f"  all {total:.0f}: the cores, with nothing else to do, reach {share:.1%} of the limit",
    ]
    if asked.failed:
        lines.append(f"  {len(asked.failed)} refused, the first: {asked.failed[0]}")
    return "\n".join(lines)


def main(
    seconds: Annotated[float, typer.Option(help="How long each run is measured.")] = 10.0,
    signers: Annotated[str, typer.Option(help="Numbers of signers, with commas.")] = "1,2",
    clients: Annotated[str, typer.Option(help="Requests in flight, with commas.")] = "64,256",
    identities: Annotated[int, typer.Option(help="Services that ask.")] = 1000,
) -> None:
    """Measure issuance on this machine."""
    limit = machine_limit(2)
    print(
        f"openssl speed ecdsap256, each of {limit.cores} cores: verify {limit.verify * 1e6:.1f} us,"
        f" sign {limit.sign * 1e6:.1f} us: at most {limit.per_second:.0f} certificates/s",
        flush=True,
    )
    for number, many in product(_numbers(signers), _numbers(clients)):
        with tempfile.TemporaryDirectory(prefix="caledger-bench-") as folder:
            run = asyncio.run(
                measure(
                    Path(folder),
                    signers=number,
                    seconds=seconds,
                    clients=many,
                    identities=identities,
                )
            )
        print(report(run, limit), flush=True)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    typer.run(main)
