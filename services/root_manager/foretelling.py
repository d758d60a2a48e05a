"""What a plan means to those who run the mesh: in numbers, in words, and for whom it matters."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from events.authority import LeafSigner
from projections.authority import AuthorityState
from projections.issuance import LiveLeaves
from services.outcomes import Change, Planned, Verifier
from services.pki import certificates
from services.pki.certificates import CA_BACKDATE
from services.root_manager import rotation
from services.root_manager.configuration import Wanted, shown
from services.root_manager.expiry import root_ends
from services.root_manager.planning import Plan
from services.wording import counted, moment


def foretold(
    state: AuthorityState, wanted: Wanted, plan: Plan, *, live: LiveLeaves, now: datetime
) -> Planned:
    """Return what a plan leads to; of one that is refused, only why. No secret is in it (H12)."""
    config = wanted.config
    refused = plan.problem is not None
    rotates = plan.effect == "rotate" and not refused
    given = wanted.config.root_certificates
    begins = certificates.load(given[0]).not_valid_before_utc if given else now - CA_BACKDATE
    active_at = rotation.activation(begins, wanted.wait_seconds, now)
    return Planned(
        effect=plan.effect,
        state=state.ca_state,
        modify_index=state.configured,
        ledger_sequence=state.position,
        problem_code=plan.problem.code if plan.problem is not None else None,
        problem=plan.problem.message if plan.problem is not None else None,
        changes=tuple(_changes(state, wanted)) if plan.changes else (),
        private_key_type=config.private_key_type,
        private_key_bits=config.private_key_bits,
        leaf_signer=config.leaf_signer,
        cross_signed=plan.crossed,
        live_leaves=live.count,
        leaves_as_of=live.position,
        verifiers=_verifiers(wanted, crossed=plan.crossed) if rotates else (),
        activate_at=active_at if rotates else None,
        prune_after=(
            active_at + 2 * timedelta(seconds=config.leaf_cert_ttl_seconds)  # as `pruning` does
            if rotates
            else None
        ),
        effects=()
        if refused
        else tuple(_effects(state, wanted, plan, live.count, active_at=active_at, now=now)),
        warnings=() if refused else tuple(_warnings(state, wanted, plan, now)),
    )


def _changes(state: AuthorityState, wanted: Wanted) -> Iterator[Change]:
    """Yield the keys that differ, as operators write them."""
    assert state.configuration is not None
    before, after = shown(state.configuration.config), shown(wanted.config)
    for key in dict.fromkeys((*before, *after)):
        if before.get(key) != after.get(key):
            yield Change(key=key, before=before.get(key), after=after.get(key))


def _verifiers(wanted: Wanted, *, crossed: bool) -> tuple[Verifier, ...]:
    """Say who accepts what once another root is active.

    The old root stays in the bundle, so whoever takes the new bundle loses nothing. The new root's
    certificate that the old one signed goes with each new leaf, for those who are late.
    """
    below_another = len(wanted.config.root_certificates) > 1
    return (
        Verifier(holds="the new bundle", live_leaves=True, new_leaves=True),
        Verifier(holds="the bundle of before", live_leaves=True, new_leaves=crossed),
        Verifier(
            holds="the new root with what is above it" if below_another else "the new root alone",
            live_leaves=False,
            new_leaves=True,
        ),
    )


def _effects(
    state: AuthorityState,
    wanted: Wanted,
    plan: Plan,
    live: int,
    *,
    active_at: datetime,
    now: datetime,
) -> Iterator[str]:
    config = wanted.config
    match plan.effect:
        case "nothing":
            yield "nothing changes"
        case "initialise":
            yield f"the first authority is made: {_root(wanted)}"
            yield _signer(wanted)
        case "rotate":
            yield f"another root is published: {_root(wanted)}"
            waits = active_at > now
            yield f"it is active {f'at {moment(active_at)}' if waits else 'at once'}"
            yield _signer(wanted)
            yield (
                f"{_keep(live)} verifying: the old root stays in the trust bundle for twice "
                "LeafCertTTL, and until the last leaf below it has expired"
            )
            if plan.crossed:
                yield (
                    "verifiers that are late with the new bundle accept new leaves: the new root "
                    "is signed by the old one as well"
                )
        case "configure":
            yield f"the root stays; {_keep(live)} verifying; what was issued keeps its life"
            if plan.leaf_signer_changes:
                yield f"from the next leaf on: {_signer(wanted)}"
            for field, words in _LATER.items():
                if field in plan.changes:
                    yield words
    if plan.effect != "nothing" and config.csr_max_per_second == 0:
        yield "requests are signed without a limit of their rate"


_LEAF_SIGNERS: Final[tuple[LeafSigner, ...]] = ("root", "intermediate")
_LATER: Final = {
    "leaf_cert_ttl_seconds": "leaves have the new life from the next one on",
    "intermediate_cert_ttl_seconds": "the next intermediate has the new life",
    "root_cert_ttl_seconds": "the next root has the new life",
}


def _root(wanted: Wanted) -> str:
    config = wanted.config
    if config.root_certificates:
        return f"the one that is given, {certificates.root_id(config.root_certificates[0])}"
    origin = "the key that is given" if config.given_key_id is not None else "a new key"
    return f"of {origin} ({config.private_key_type} {config.private_key_bits})"


def _signer(wanted: Wanted) -> str:
    if wanted.config.leaf_signer == "root":
        return "the root itself signs leaves: signers get its key, sealed"
    return "a new intermediate signs leaves"


def _warnings(state: AuthorityState, wanted: Wanted, plan: Plan, now: datetime) -> Iterator[str]:
    config = wanted.config
    if plan.effect == "nothing":
        return
    active = state.active_root
    if plan.effect == "rotate" and not plan.crossed:
        yield (
            "the new root is not signed by the old one: verifiers that do not have the new bundle "
            "when it becomes active refuse every leaf from then on"
            + ("" if wanted.wait_seconds else " (give them time: WaitSeconds)")
        )
    if plan.effect == "rotate" and plan.crossed and active is not None:
        end = root_ends(active)
        if rotation.expires_too_soon(end, config, now):
            yield f"the old root expires at {moment(end)}, and its signature of the new one then"
        if len(config.root_certificates) > 1:  # two ways up, and they look at the first alone
            yield (
                "whoever trusts only the root above the new one needs the trust bundle as well: of "
                "the new root's two certificates OpenSSL and GnuTLS look at the one that the old "
                "root signed, and refuse the new leaves otherwise"
            )
        if active.published.chain:
            yield (
                "whoever trusts only the root above the old one refuses the new leaves: the trust "
                "bundle is needed, this one or the one before, with all of its certificates"
            )
    if plan.effect == "configure" and active is not None:
        yield from _of_lives(state, wanted, root_ends(active), now)
    yield from _of_the_next_rotation(state, wanted, plan)


def _of_lives(state: AuthorityState, wanted: Wanted, end: datetime, now: datetime) -> Iterator[str]:
    """Warn of leaves that cannot live as long as they are to: an issuer is outlived by none."""
    config = wanted.config
    if rotation.expires_too_soon(end, config, now):
        yield f"the root expires at {moment(end)}: until another one is active, leaves end then"
        return
    issuer = state.issuer
    if issuer is None or config.leaf_signer == "root":
        return
    end = certificates.load(issuer.certificate).not_valid_after_utc
    if rotation.expires_too_soon(end, config, now):
        yield f"leaves end at {moment(end)}, with the intermediate, until that is renewed"


def _of_the_next_rotation(state: AuthorityState, wanted: Wanted, plan: Plan) -> Iterator[str]:
    """Warn of a root that cannot sign another one."""
    if plan.effect == "configure" and state.active_root is not None:
        root = state.active_root.published
        chain = (root.certificate, *root.chain)
    elif wanted.config.root_certificates:
        chain = wanted.config.root_certificates
    else:
        return  # those that are made here have no path length
    length = certificates.cas_allowed_below(chain)
    signer = {
        leaf_signer: rotation.cas_to_cross(replace(wanted.config, leaf_signer=leaf_signer))
        for leaf_signer in _LEAF_SIGNERS
    }
    if length is not None and length < max(signer.values()):
        needed = " and ".join(f"{each} with LeafSigner {name}" for name, each in signer.items())
        yield (
            f"the root has path length {length}; to sign another root it takes {needed}: the next "
            "rotation that this is too little for takes ForceWithoutCrossSigning"
        )


def _keep(live: int) -> str:
    return f"{counted(live, 'live leaf', 'live leaves')} keep{'s' if live == 1 else ''}"
