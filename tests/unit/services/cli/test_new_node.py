"""`caledger init` and `caledger dev`: what nothing can be made of is refused before anything is."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli.app import app


@pytest.mark.parametrize("command", ["init", "dev"])
@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--csr-max-per-second", "inf", "no rate limit"),
        ("--csr-max-per-second", "nan", "no rate limit"),
        ("--csr-max-per-second", "-1", "no rate limit"),
        ("--trust-domain", "single", "not a trust domain"),
        ("--trust-domain", "10.0.0.1", "not a trust domain"),
        ("--trust-domain", "a b.example", "not a trust domain"),
    ],
)
def test_a_rate_or_a_trust_domain_that_is_none(
    tmp_path: Path, command: str, option: str, value: str, told: str
) -> None:
    folder = tmp_path / "node"

    ran = CliRunner().invoke(
        app, [command, "--data", str(folder), option, value], env={"COLUMNS": "500"}
    )

    assert ran.exit_code == 2
    assert told in ran.output
    assert not folder.exists()
