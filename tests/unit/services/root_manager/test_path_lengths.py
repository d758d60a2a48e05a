"""Path lengths of a given root and of all above it: no leaf has a chain that they forbid.

RFC 5280, 4.2.1.9; the verdicts are OpenSSL's.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from services.refusals import RefusedError
from services.root_manager.rotation import NO_CROSS_SIGNING
from tests.external_ca import given_with_path_lengths
from tests.verifiers import Chain, Verdict, openssl
from tests.virtual import SUBJECTS, Datacenter, Shown, run


def verdict(dc: Datacenter, shown: Shown, roots: tuple[bytes, ...]) -> Verdict:
    """Ask OpenSSL, which trusts these alone."""
    chain = Chain(leaf=shown.leaf.certificate, intermediates=shown.chain, roots=roots)
    return openssl(chain, at=dc.clock.now())


def bundle(dc: Datacenter) -> tuple[bytes, ...]:
    """Return every certificate of the trust bundle, as who trusts the whole of it."""
    roots = [root.published for root in dc.state.roots.values()]
    return tuple(der for root in roots for der in (root.certificate, *root.chain))


@pytest.mark.parametrize("lengths", [(1, None), (None, 1, None), (2, None, 5)])
async def test_no_authority_begins_with_a_chain_that_is_too_short_above(
    tmp_path: Path, lengths: tuple[int | None, ...]
) -> None:
    async with Datacenter.open(tmp_path) as dc:
        given = given_with_path_lengths(*lengths)
        dc.first_configuration = given.write(tmp_path / "ca.json")
        await dc.signers(run(1))

        assert dc.state.configuration is None
        [failure] = dc.manager.attempts.failures
        assert "or one above it allows no more" in failure.reason

        given.write(tmp_path / "ca.json", LeafSigner="root")  # one CA less
        dc.clock.forward(failure.again_at - dc.clock.now())
        await dc.act()
        await dc.act()
        assert (told := verdict(dc, await dc.sign(), dc.roots())), told.text


async def test_no_rotation_leads_to_a_chain_that_is_too_short_above(dc: Datacenter) -> None:
    """The old root would hide it, by its signature on the new one, until it is pruned."""
    config = given_with_path_lengths(1, None).config

    with pytest.raises(RefusedError, match="path length is 0, or one above it"):
        await dc.command(SUBJECTS.config_set, Config=config)

    assert dc.state.rotation is None


@pytest.mark.parametrize(
    ("lengths", "leaf_signer"),
    [
        ((2, None), "intermediate"),
        ((None, 2, None), "intermediate"),
        ((3, None, None), "intermediate"),
        ((1, None), "root"),
    ],
)
async def test_a_root_below_one_that_allows_too_few_signs_no_other_across(
    tmp_path: Path, lengths: tuple[int | None, ...], leaf_signer: str
) -> None:
    fields = {"LeafSigner": leaf_signer}
    async with Datacenter.open(tmp_path) as dc:
        given = given_with_path_lengths(*lengths)
        dc.first_configuration = given.write(tmp_path / "ca.json", **fields)
        await dc.signers(run(1))
        assert (told := verdict(dc, await dc.sign(), dc.roots())), told.text

        with pytest.raises(RefusedError, match="or one above it allows no more") as refused:
            await dc.command(SUBJECTS.config_set, Config=fields)
        assert refused.value.message.startswith(NO_CROSS_SIGNING)

        await dc.command(SUBJECTS.config_set, Config=fields, ForceWithoutCrossSigning=True)
        await dc.act()
        assert (told := verdict(dc, await dc.sign(), dc.roots())), told.text


@pytest.mark.parametrize("lengths", [(3, None), (None, 3, None), (4, None, 2)])
async def test_a_root_below_one_that_allows_enough_signs_another_across(
    tmp_path: Path, lengths: tuple[int | None, ...]
) -> None:
    async with Datacenter.open(tmp_path) as dc:
        dc.first_configuration = given_with_path_lengths(*lengths).write(tmp_path / "ca.json")
        await dc.signers(run(1))
        old = bundle(dc)

        await dc.command(SUBJECTS.config_set, Config={})
        await dc.act()

        shown = await dc.sign()
        for roots in (old, bundle(dc), dc.roots()):
            assert (told := verdict(dc, shown, roots)), told.text
