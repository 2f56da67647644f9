"""Every Python example of the README and the documentation runs, against the emulator, as a reader would run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from attrs import frozen

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
READER = Path(__file__).with_name("reader.py")
BLOCK = re.compile(
    r"(?:^ *<!-- not run: (?P<reason>[^\n]+) -->\n\s*)?^(?P<indent> *)```(?:python|py)\b(?P<more>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)

PAGE = """text
'''python
a = 1
'''
- item

  '''py title="x"
  b = 1
  '''
<!-- not run: needs a key -->
'''python
c = 1
'''
'''bash
d
'''
""".replace("'''", "```")


@frozen(kw_only=True)
class Snippet:
    """One block of Python on a page."""

    page: str
    line: int
    code: str
    reason: str | None
    """Why it is not run, when the page says so."""

    def __str__(self) -> str:
        """The name of its test."""
        return f"{self.page}:{self.line}"


def snippets_of(page: str, text: str) -> list[Snippet]:
    """All blocks of a page, in order. Cells of a notebook need each other: `test_notebook.py` runs them."""
    return [
        Snippet(
            page=page,
            line=text.count("\n", 0, found.start("code")) + 1,
            code=textwrap.dedent(found["code"]),
            reason="a cell" if 'title="In [' in found["more"] else found["reason"],
        )
        for found in BLOCK.finditer(text)
    ]


SNIPPETS = [snippet for path in PAGES for snippet in snippets_of(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def troubles() -> dict[str, list[str]]:
    """What went wrong, by the name of the snippet. One process reads them all: starting one costs more than most of them."""
    done = subprocess.run(
        [sys.executable, "-W", "error", READER],
        input=json.dumps([(str(snippet), "\n" * (snippet.line - 1) + snippet.code) for snippet in SNIPPETS if snippet.reason is None]),
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *sys.path])},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", [str(snippet) for snippet in SNIPPETS if snippet.reason is None])
def test_snippet(name: str, troubles: dict[str, list[str]]) -> None:
    """What a reader copies works, without a warning."""
    assert not troubles[name], "\n".join(troubles[name])


def test_every_block_is_found() -> None:
    """No block escapes by an unusual fence: as many are found as begin."""
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert len(snippets_of(path.name, text)) == len(re.findall(r"^ *(?:```+|~~~+) *\{?\.?py", text, re.MULTILINE)), path.name


def test_blocks_are_read() -> None:
    """Blocks are taken out with their line and without their indentation; only a comment with a reason keeps one from running."""
    found = [(snippet.line, snippet.code, snippet.reason) for snippet in snippets_of("page.md", PAGE)]
    assert found == [(3, "a = 1\n", None), (8, "b = 1\n", None), (12, "c = 1\n", "needs a key")]
