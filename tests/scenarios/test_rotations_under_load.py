"""Rotations over every kind of CA key, while a crowd signs and another one watches the bundle."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
import pytest
from cryptography import x509
from cryptography.x509.verification import ClientVerifier, PolicyBuilder, Store, VerificationError
from msgspec.structs import replace

from events.base import Struct
from projections.bundle import Roots
from services.administration_client import AdministrationClient
from services.client import CaClient
from services.outcomes import Outcome
from tests.scenarios.caledger import Caledger
from tests.scenarios.checking import Ledger, check, projections_are_those_built_anew, signing
from tests.scenarios.load import Answer, Load, OurLine, endless, requests
from tests.scenarios.watching import Crowd, Seen, held_by_all, watching
from tests.verifiers import Chain, openssl, pem_chain

KINDS = (("ec", 256), ("ec", 384), ("rsa", 2048), ("rsa", 3072), ("rsa", 4096))
CLIENTS = 64
WATCHERS = 1_000
READERS = 100  # of the watchers: by our client, which is pushed a bundle and reads it again
CONNECTIONS = 100  # of the watchers
IDENTITIES = 500
PAUSE_SECONDS = 0.25  # of a client between two requests: the watchers share its processors
UNDISTURBED_SECONDS = 3.0  # of load before the first rotation, to compare with
WAIT_SECONDS = 2.0
ACTIVE_SECONDS = 60.0
LOOK_EVERY_SECONDS = 0.02


class Rotation(Struct):
    """What is asked for."""

    before: tuple[str, int]
    after: tuple[str, int]
    wait_seconds: float
    crossed: bool  # the old root signs the new one

    def __str__(self) -> str:
        (before, of), (after, to) = self.before, self.after
        how = f"{self.wait_seconds:g} s" if self.crossed else "not crossed"
        return f"{before} {of} -> {after} {to}, wait {how}"


def rotations() -> Iterator[Rotation]:
    """Yield one for each pair of kinds, 25; the first begins where `caledger dev` begins."""
    kinds = _each_followed_by_each()
    for number, (before, after) in enumerate(zip(kinds, kinds[1:] + kinds[:1], strict=True)):
        yield Rotation(
            before=before,
            after=after,
            wait_seconds=WAIT_SECONDS if number % 5 == 4 else 0.0,
            crossed=number not in (4, 9),
        )


def _each_followed_by_each() -> list[tuple[str, int]]:
    """Return kinds, each followed once by each, itself too; the first one follows the last.

    A de Bruijn sequence of order 2.
    """
    found: list[tuple[str, int]] = []
    for place, kind in enumerate(KINDS):
        found.append(kind)
        for later in KINDS[place + 1 :]:
            found += [kind, later]
    return found


class Rotated(Struct):
    """What came of it; moments of the loop's clock."""

    rotation: Rotation
    began: float
    active: float  # the new root signs, as the CA says
    everywhere: float  # every watcher knows
    bundle: int  # LedgerSequence of what they know


class Administrator:
    """Rotates; the next time once every watcher knows of the last: a chain bridges one rotation."""

    def __init__(self, client: CaClient, crowd: Crowd) -> None:
        self._client = client
        self._commands = AdministrationClient(client)
        self._crowd = crowd

    async def rotate(self, rotation: Rotation) -> Rotated:
        """Have one rotation done, and wait until every watcher has seen the end of it."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        told = msgspec.json.decode(await self._command(rotation), type=Outcome)
        bundle = await self._activated(told.root_id)
        active = loop.time()
        await self._crowd.all_have(bundle)
        return Rotated(
            rotation=rotation, began=began, active=active, everywhere=loop.time(), bundle=bundle
        )

    async def _command(self, rotation: Rotation) -> bytes:
        wait = rotation.wait_seconds
        if not rotation.crossed:  # everything hangs on the wait: chosen by what was seen so far
            wait += 2 * self._crowd.longest_spread
        if rotation.before == rotation.after:
            return await self._commands.rotate(
                wait_seconds=wait, force_without_cross_signing=not rotation.crossed
            )
        key_type, bits = rotation.after
        key = {"PrivateKeyType": key_type, "PrivateKeyBits": bits}
        return await self._commands.set_config(
            {"Provider": "consul", "Config": {**key, "CSRMaxPerSecond": 0}},
            wait_seconds=wait,
            force_without_cross_signing=not rotation.crossed,
        )

    async def _activated(self, root_id: str | None) -> int:
        """Return the sequence of the bundle in which this root signs, once it does."""
        async with asyncio.timeout(ACTIVE_SECONDS):
            while True:
                roots = msgspec.json.decode(await self._client.roots(), type=Roots)
                if roots.active_root_id == root_id:
                    return roots.ledger_sequence
                await asyncio.sleep(LOOK_EVERY_SECONDS)


@pytest.mark.slow
@pytest.mark.timeout(900)  # two minutes, where nothing else has the processors
async def test_while_roots_rotate_no_request_fails_and_every_watcher_can_verify_every_leaf(
    tmp_path: Path,
) -> None:
    """Goal: a rotation, from any kind of key to any other, is noticed by nobody.

    Method: 64 clients ask for one certificate after the other, and 1,000 watchers follow the trust
    bundle, while the root rotates 25 times: between every two kinds of CA keys in either direction,
    and from each kind to itself; on demand and by configuration, with and without a wait before the
    first leaf, and (with a wait) without a cross-signature. Each call of our client must be
    answered. Each certificate must verify with the bundle of each watcher, from the moment at which
    the ledger had it: with those that watchers held at that moment, and all that they got later.
    """
    async with Caledger(tmp_path) as caledger:
        await signing(caledger, 2)
        load = await Load.on(
            caledger,
            endless(requests(IDENTITIES, identities=IDENTITIES)),
            clients=CLIENTS,
            pause=PAUSE_SECONDS,
            as_ours=True,
        )
        async with watching(
            caledger, watchers=WATCHERS, readers=READERS, connections=CONNECTIONS
        ) as crowd:
            administrator = Administrator(await caledger.client(), crowd)
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(load.run())
                await asyncio.sleep(UNDISTURBED_SECONDS)
                rotated = [await administrator.rotate(rotation) for rotation in rotations()]
                load.enough()
                await running
            seen = await crowd.end()
        print(load.figures(), figures(load, rotated, seen), sep="\n")

        load.all_answered()
        assert {answer.sendings for answer in load.answers} == {1}, "a call was not answered"
        everybody_saw_the_end_of_it(seen, [one.bundle for one in rotated])
        ledger = await check(caledger, load)
        every_watcher_can_verify_every_leaf(ledger, load.answers, seen)
        _a_fault_would_have_been_seen(ledger, load.answers, seen)
        await projections_are_those_built_anew(caledger, caledger.data / "projections.sqlite")


def everybody_saw_the_end_of_it(seen: Seen, last: Sequence[int]) -> None:
    """Assert that all watchers came to the last bundle, and that each has one active root.

    `last`: of each rotation, the bundle in which its root signs. All roots stay trusted.
    """
    assert not seen.contradictions
    bundles = sorted(seen.bundles)
    for watcher in seen.watchers:
        assert watcher[-1].sequence == bundles[-1]
    signed = set()
    for sequence in bundles:
        roots = msgspec.json.decode(seen.bundles[sequence], type=Roots)
        assert [root.id for root in roots.roots if root.active] == [roots.active_root_id]
        signed.add(roots.active_root_id)
    assert bundles[-1] == last[-1]
    assert len(seen.roots(bundles[-1])) == len(signed) == 1 + len(last)


class Shown(NamedTuple):
    """What a client shows to who verifies it."""

    leaf: x509.Certificate
    issuers: tuple[x509.Certificate, ...]


class Judge:
    """cryptography's verifier, with each bundle that watchers had."""

    def __init__(self, seen: Seen) -> None:
        now = datetime.now(UTC)
        load = x509.load_der_x509_certificate
        self._verifiers: dict[int, ClientVerifier] = {
            bundle: PolicyBuilder()
            .store(Store([load(der) for der in seen.roots(bundle)]))
            .time(now)
            .build_client_verifier()
            for bundle in seen.bundles
        }

    def refuses(self, shown: Shown, bundle: int) -> str | None:
        """Say why who has this bundle does not accept a leaf; None: it is accepted."""
        try:
            self._verifiers[bundle].verify(shown.leaf, list(shown.issuers))
        except VerificationError as error:
            return str(error)
        return None


def every_watcher_can_verify_every_leaf(
    ledger: Ledger, answers: Sequence[Answer], seen: Seen
) -> None:
    """Assert that no watcher saw, or will see, a leaf that its bundle does not verify.

    A leaf can be seen from when the ledger stored it. Each is verified with the oldest bundle that
    any watcher had then; one of each chain of issuers with every bundle from then to the end.
    """
    judge, arrivals = Judge(seen), seen.arrivals()
    stored = {leaf.at.envelope.id: leaf.at.stored.timestamp() for leaf in ledger.leaves}
    issuers: dict[tuple[bytes, ...], tuple[x509.Certificate, ...]] = {}
    earliest: dict[tuple[bytes, ...], tuple[int, bytes, Shown]] = {}  # of each chain of issuers
    for answer in answers:
        der, *rest = pem_chain(answer.issued.cert_pem)
        chain = tuple(rest)
        if chain not in issuers:
            issuers[chain] = tuple(map(x509.load_der_x509_certificate, chain))
        shown = Shown(leaf=x509.load_der_x509_certificate(der), issuers=issuers[chain])
        bundle = held_by_all(arrivals, stored[answer.issued.event_id])
        refused = judge.refuses(shown, bundle)
        assert refused is None, (
            f"the bundle of {bundle}, which a watcher has, does not verify the leaf of "
            f"{answer.issued.ledger_sequence}: {refused}"
        )
        if chain not in earliest or bundle < earliest[chain][0]:
            earliest[chain] = bundle, der, shown
    ahead = 0
    for chain, (bundle, der, shown) in earliest.items():
        ahead += judge.refuses(Shown(shown.leaf, shown.issuers[:1]), bundle) is not None
        for later in sorted(seen.bundles):
            assert later < bundle or judge.refuses(shown, later) is None
        chain_shown = Chain(leaf=der, intermediates=chain, roots=seen.roots(bundle))
        assert (verdict := openssl(chain_shown)), verdict.text
    print(
        f"{len(answers)} leaves of {len(earliest)} chains of issuers verify with each of "
        f"{len(seen.bundles)} bundles that anybody had from their moment on; of {ahead} chains a "
        "leaf was there before every watcher had its root, and verified by the cross-signature"
    )


def _a_fault_would_have_been_seen(ledger: Ledger, answers: Sequence[Answer], seen: Seen) -> None:
    """Show that what was just checked can fail: one watcher that hears of the first bundle only."""
    deaf = replace(seen, watchers=(*seen.watchers[1:], seen.watchers[0][:1]))
    with pytest.raises(AssertionError, match="does not verify the leaf"):
        every_watcher_can_verify_every_leaf(ledger, answers, deaf)


def figures(load: Load, rotated: Sequence[Rotated], seen: Seen) -> str:
    """Return what the rotations took, and what they cost who signed meanwhile."""
    spreads = [arrived.spread for arrived in seen.arrivals()[1:]]
    ours = [cast("OurLine", line)._client.nc.stats["out_msgs"] for line in load._lines]
    undisturbed = _longest(load, 0.0, rotated[0].began)
    lines = [
        f"{one.rotation}: signs after {one.active - one.began:.2f} s, known everywhere after "
        f"{one.everywhere - one.began:.2f} s; longest wait "
        f"{_longest(load, one.began, one.everywhere):.2f} s"
        for one in rotated
    ]
    lines.append(
        f"{len(rotated)} rotations in {rotated[-1].everywhere - rotated[0].began:.1f} s; "
        f"longest wait {load.longest:.2f} s, before the first rotation {undisturbed:.2f} s; "
        f"asked again {sum(ours) - len(load.answers)} times"
    )
    lines.append(
        f"{len(spreads)} bundles reached {len(seen.watchers)} watchers within "
        f"{statistics.median(spreads):.2f} s of the first one (median), {max(spreads):.2f} s "
        f"(most); {seen.interrupted} times one got no answer"
    )
    return "\n".join(lines)


def _longest(load: Load, begin: float, end: float) -> float:
    """Return the longest wait, in seconds, of what was asked or waited for in this time."""
    return max(
        answer.seconds
        for answer in load.answers
        if answer.began < end and answer.began + answer.seconds > begin
    )
