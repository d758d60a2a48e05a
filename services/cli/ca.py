"""`caledger ca`: the certificate authority itself, for those who administrate it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import ca_crl, ca_revocation
from services.cli.ca_options import (
    CasOption,
    ConfigFileOption,
    ForceOption,
    RequestIdOption,
    RotateForceOption,
    TimeoutOption,
    WaitOption,
)
from services.cli.common import (
    CliError,
    ContextOption,
    DatacenterOption,
    DataOption,
    Exit,
    JsonOption,
    UserOption,
    find,
    run,
    say,
)

if TYPE_CHECKING:
    from services.cli.administering import Session
    from services.cli.common import Target
    from services.outcomes import Outcome, Planned

app = typer.Typer(
    no_args_is_help=True,
    help="The certificate authority: its configuration, its roots, and what is revoked.",
    epilog="A command is carried out once, however often it is sent. Where no answer came in time, "
    "the same command with the --request-id that was told says what became of it.",
)


@app.command("get-config")
def get_config(
    json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
    data: DataOption = None,
    context: ContextOption = None,
    user: UserOption = None,
    datacenter: DatacenterOption = None,
) -> None:
    """Show the configuration, as `set-config` takes it back.

    A private key is never shown: `key:ID` stands for one that was given. --json: on one line.
    """
    target = find(data=data, context=context, user=user, datacenter=datacenter)
    answer = run(_get_config(target, timeout))
    if json:
        print(answer.decode())
        return
    import msgspec

    print(msgspec.json.format(answer, indent=4).decode())


@app.command("set-config")
def set_config(
    config_file: ConfigFileOption = None,
    force_without_cross_signing: ForceOption = False,
    wait: WaitOption = None,
    modify_index: CasOption = None,
    request_id: RequestIdOption = None,
    json: JsonOption = False,
    timeout: TimeoutOption = 60.0,
    data: DataOption = None,
    context: ContextOption = None,
    user: UserOption = None,
    datacenter: DatacenterOption = None,
) -> None:
    """Replace the configuration; another key, root or kind of key rotates to a new root.

    First what it does is told, as `caledger ca plan` does; it is done only if nobody changed the
    configuration meanwhile. A key that FILE does not have gets its default; one that is not known
    is refused. A ModifyIndex in FILE must be the configuration's still.

    Example: caledger ca get-config > ca.json; edit it; caledger ca set-config -config-file ca.json
    """
    asked = _asked(config_file, force_without_cross_signing, wait, modify_index)
    target = find(data=data, context=context, user=user, datacenter=datacenter)
    answer = run(_set_config(target, asked, timeout, request_id, json=json))
    if json:
        print(answer.decode())
    else:
        _print_outcome(answer)


@app.command("plan")
def plan(
    config_file: ConfigFileOption = None,
    force_without_cross_signing: ForceOption = False,
    wait: WaitOption = None,
    modify_index: CasOption = None,
    json: JsonOption = False,
    timeout: TimeoutOption = 60.0,
    data: DataOption = None,
    context: ContextOption = None,
    user: UserOption = None,
    datacenter: DatacenterOption = None,
) -> None:
    """Say what `set-config` with the same would do, and who would notice. Nothing is done.

    Ends with 1 where it would be refused.
    """
    asked = _asked(config_file, force_without_cross_signing, wait, modify_index)
    target = find(data=data, context=context, user=user, datacenter=datacenter)
    answer = run(_plan(target, asked, timeout))
    _warn_of_force(asked, _read_plan(answer))
    _print_plan(answer, json=json)


@app.command("rotate")
def rotate(
    wait: WaitOption = None,
    force_without_cross_signing: RotateForceOption = False,
    abort: Annotated[
        bool, typer.Option("--abort", help="Give up the rotation that waits for its activation.")
    ] = False,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why it is given up, for the ledger.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only say what it would do, and who would notice; ends with 1 where it would be "
            "refused.",
        ),
    ] = False,
    request_id: RequestIdOption = None,
    json: JsonOption = False,
    timeout: TimeoutOption = 60.0,
    data: DataOption = None,
    context: ContextOption = None,
    user: UserOption = None,
    datacenter: DatacenterOption = None,
) -> None:
    """Rotate to a new root of the same kind: trusted by all first, then signing.

    With --wait it returns at once, and says when the new root becomes active. Until then
    `caledger ca rotate --abort` takes it back.
    """
    if abort and (wait is not None or force_without_cross_signing or dry_run):
        raise CliError("--abort goes with --reason only", Exit.USAGE)
    if reason is not None and not abort:
        raise CliError("--reason goes with --abort", Exit.USAGE)
    target = find(data=data, context=context, user=user, datacenter=datacenter)
    if abort:
        answer = run(_abort(target, reason, timeout, request_id))
    else:
        asked = {
            "wait_seconds": wait or 0.0,
            "force_without_cross_signing": force_without_cross_signing,
            "dry_run": dry_run,
        }
        answer = run(_rotate(target, asked, timeout, request_id))
    if dry_run:
        _print_plan(answer, json=json)
    elif json:
        print(answer.decode())
    else:
        _print_outcome(answer)


@app.command("prune")
def prune(
    root_id: Annotated[
        str, typer.Argument(metavar="ROOT_ID", help="As `caledger roots get` shows it.")
    ],
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Although leaves below it live: no verifier accepts them any more."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many live leaves it would cut off.")
    ] = False,
    request_id: RequestIdOption = None,
    json: JsonOption = False,
    timeout: TimeoutOption = 60.0,
    data: DataOption = None,
    context: ContextOption = None,
    user: UserOption = None,
    datacenter: DatacenterOption = None,
) -> None:
    """Trust a retired root no more. By itself this happens once its last leaf has expired.

    A root whose key was stolen: rotate first, then prune it with --force.
    """
    from services.cli.selection import read_root_id

    root_id = read_root_id(root_id)
    target = find(data=data, context=context, user=user, datacenter=datacenter)
    answer = run(_prune(target, root_id, timeout, request_id, force=force, dry_run=dry_run))
    if json:
        print(answer.decode())
    else:
        _print_outcome(answer, force=force)


app.command("revoke")(ca_revocation.revoke)
app.command("crl")(ca_crl.crl)


def _asked(
    file: Path | None, force: bool, wait: float | None, modify_index: int | None
) -> dict[str, Any]:
    """Return the arguments of `config.set` and `config.plan`; raises CliError."""
    from services.cli.administering import read_configuration

    return {
        "configuration": read_configuration(file),
        "force_without_cross_signing": force,
        "wait_seconds": wait,
        "modify_index": modify_index,
    }


def _warn_of_force(asked: dict[str, Any], planned: Planned) -> None:
    """Say that a file's force does not count, where it would matter."""
    from services.cli.administering import says

    forced = says(asked["configuration"], "ForceWithoutCrossSigning") is True
    if planned.effect == "rotate" and forced and not asked["force_without_cross_signing"]:
        say("the file's ForceWithoutCrossSigning does not count: say --force-without-cross-signing")


async def _get_config(target: Target, timeout: float) -> bytes:
    from services.cli.administering import session

    async with session(target, timeout=timeout) as it:
        return await it.ca.get_config(timeout=it.left)


async def _plan(target: Target, asked: dict[str, Any], timeout: float) -> bytes:
    from services.cli.administering import session

    async with session(target, timeout=timeout) as it:
        return await it.ca.plan(**asked, timeout=it.left)


async def _set_config(
    target: Target, asked: dict[str, Any], timeout: float, request_id: str | None, *, json: bool
) -> bytes:
    from services.cli.administering import session

    async with session(target, timeout=timeout, request_id=request_id) as it:
        planned = _read_plan(await it.ca.plan(**asked, request_id=request_id, timeout=it.left))
        if not json:
            from services.cli.ca_plan import lines

            say("\n".join(lines(planned)))
        _warn_of_force(asked, planned)
        _check(planned)
        return await _set(it, asked, planned)


async def _set(it: Session, asked: dict[str, Any], planned: Planned) -> bytes:
    """Do what was told, and nothing else: the configuration must be the one that it was told of."""
    async with it.commanding():
        return await it.ca.set_config(
            **{**asked, "modify_index": planned.modify_index},
            request_id=it.request_id,
            timeout=it.left,
        )


async def _rotate(
    target: Target, asked: dict[str, Any], timeout: float, request_id: str | None
) -> bytes:
    from services.cli.administering import session

    async with session(target, timeout=timeout, request_id=request_id) as it, it.commanding():
        return await it.ca.rotate(**asked, request_id=it.request_id, timeout=it.left)


async def _abort(
    target: Target, reason: str | None, timeout: float, request_id: str | None
) -> bytes:
    from services.cli.administering import session

    async with session(target, timeout=timeout, request_id=request_id) as it, it.commanding():
        return await it.ca.abort_rotation(
            reason=reason or "asked for", request_id=it.request_id, timeout=it.left
        )


async def _prune(
    target: Target,
    root_id: str,
    timeout: float,
    request_id: str | None,
    *,
    force: bool,
    dry_run: bool,
) -> bytes:
    from services.cli.administering import session

    async with session(target, timeout=timeout, request_id=request_id) as it, it.commanding():
        answer = await it.ca.prune(
            root_id, force=force, dry_run=dry_run, request_id=it.request_id, timeout=it.left
        )
        if dry_run and not force and _read_outcome(answer).live_leaves:  # it takes force: tell that
            return await it.ca.prune(root_id, force=True, dry_run=True, timeout=it.left)
        return answer


def _read_plan(answer: bytes) -> Planned:
    from services.cli.administering import read
    from services.outcomes import Planned

    return read(answer, Planned)


def _read_outcome(answer: bytes) -> Outcome:
    from services.cli.administering import read
    from services.outcomes import Outcome

    return read(answer, Outcome)


def _check(planned: Planned) -> None:
    """Raise RefusedError, as the CA would, where something stands against a plan."""
    from services.refusals import RefusedError

    if planned.problem is not None:
        raise RefusedError(planned.problem_code or "internal", planned.problem)


def _print_plan(answer: bytes, *, json: bool) -> None:
    """Print a plan; ends with 1 where what is planned would be refused."""
    planned = _read_plan(answer)
    if json:
        print(answer.decode())
    else:
        from services.cli.ca_plan import lines

        print("\n".join(lines(planned)))
    if planned.problem is not None:
        raise typer.Exit(Exit.FAULT)


def _print_outcome(answer: bytes, *, force: bool = False) -> None:
    from services.cli.ca_plan import outcome

    print("\n".join(outcome(_read_outcome(answer), force=force)))
