"""Refuse a release that contradicts itself: the tag, the version and the changelog must say the same."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def trouble(tag: str, version_file: str, changelog: str) -> str | None:
    """What is wrong with releasing under that tag; `None` when nothing is."""
    written = re.search(r'^__version__ = "(.+)"$', version_file, re.MULTILINE)
    version = written.group(1) if written else "missing"
    if tag != f"v{version}":
        return f"the tag is {tag}, and kling_async/_version.py says {version}"
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        return f"CHANGELOG.md has no section `## [{version}] - YYYY-MM-DD`"
    unreleased = re.search(r"^## \[Unreleased\]\n(.*?)(?=^## \[)", changelog, re.MULTILINE | re.DOTALL)
    if unreleased and unreleased.group(1).strip():
        return "CHANGELOG.md still lists something as unreleased: it belongs to this version, or to a branch"
    return None


if __name__ == "__main__":
    sys.exit(trouble(sys.argv[1], (ROOT / "kling_async/_version.py").read_text("utf-8"), (ROOT / "CHANGELOG.md").read_text("utf-8")))
