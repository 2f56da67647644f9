"""Row X8: the bounds of our dependencies are what was tried. The proof is a run: `nox -s oldest` for the floors, `pythons` for the rest."""

from __future__ import annotations

import os
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
CORE = {requirement.name: requirement for requirement in map(Requirement, PROJECT["dependencies"])}


@pytest.mark.row("X8")
def test_what_is_installed() -> None:
    """The versions that this run is made with lie within the bounds; in the run with the oldest they are the floors themselves."""
    assert sorted(CORE) == ["aiohttp", "anyio", "attrs", "cattrs"]
    for name, requirement in CORE.items():
        installed = version(name)
        assert requirement.specifier.contains(installed), (name, installed)
        (floor,) = [bound.version for bound in requirement.specifier if bound.operator == ">="]
        if os.environ.get("KLING_OLDEST"):
            assert installed.removesuffix(".0") == floor.removesuffix(".0"), (name, installed)
