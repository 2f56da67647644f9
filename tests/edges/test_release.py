"""A release cannot contradict itself."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "check_release.py"
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2026-11-22\n\n- A thing.\n\n## [1.1.0] - 2026-01-01\n"

if not SCRIPT.exists():
    pytest.skip("the wheel is tested without the workshop's scripts", allow_module_level=True)


def trouble(tag: str, version: str, changelog: str) -> str | None:
    """What the script says."""
    spec = importlib.util.spec_from_file_location("check_release", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    said: str | None = module.trouble(tag, f'"""The one place."""\n\n__version__ = "{version}"\n', changelog)
    return said


def test_a_tag_that_agrees_with_version_and_changelog_may_be_released() -> None:
    """The three say the same."""
    assert trouble("v1.2.0", "1.2.0", CHANGELOG) is None


@pytest.mark.parametrize(
    ("tag", "version", "changelog", "word"),
    [
        ("v1.2.1", "1.2.0", CHANGELOG, "the tag is v1.2.1"),
        ("1.2.0", "1.2.0", CHANGELOG, "the tag is 1.2.0"),
        ("v1.3.0", "1.3.0", CHANGELOG, "no section"),
        ("v1.2.0", "1.2.0", CHANGELOG.replace("2026-11-22", "soon"), "no section"),
        ("v1.2.0", "1.2.0", CHANGELOG.replace("## [1.2.0]", "- Left over.\n\n## [1.2.0]"), "unreleased"),
    ],
)
def test_a_release_that_contradicts_itself_is_refused(tag: str, version: str, changelog: str, word: str) -> None:
    """Each way to disagree is named."""
    assert word in (trouble(tag, version, changelog) or "")
