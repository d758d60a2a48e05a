"""The tree is what it says it is: rules that no other tool holds."""

from __future__ import annotations

from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("events", "projections", "services")


@pytest.mark.parametrize("package", PACKAGES)
def test_no_dependency_owns_one_of_our_import_names(package: str) -> None:
    assert set(packages_distributions().get(package, [])) <= {"caledger"}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_three_roots_are_empty(package: str) -> None:
    assert (ROOT / package / "__init__.py").read_text() == ""


def test_only_the_ledger_module_publishes_below_the_ledgers_subjects() -> None:
    """Architecture 3.1, rule 2: one module is the only way to write."""
    writers = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "Nats-Expected-Last-Subject-Sequence-Subject" in path.read_text()
    }

    assert writers == {"events/ledger.py"}
