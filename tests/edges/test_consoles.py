"""Every command of the README and the documentation is typed, and says what its page says it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("cyclopts", reason="the command line is an extra")

from consoles import FENCE, NOT_TYPED, SHELLS, Reader, agrees, files_of, typed_on

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
TYPED = {page: [typed for typed in typed_on(page, text) if not typed.command.startswith(tuple(NOT_TYPED))] for page, text in PAGES.items()}
JOBS = '{"job": "generate_image", "prompt": "a red fox"}\n{"job": "generate_image", "prompt": "a heron"}\n'

PAGE = """text
'''python title="fox.py"
a = 1
'''
- item

  '''console
  $ kling ls  # all
  one
  two
  $ kling get REF
  '''
'''bash
# nothing
export A=b
'''
""".replace("'''", "```")


@pytest.mark.parametrize("page", [page for page, typed in TYPED.items() if typed])
def test_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who types what stands there, in order, sees what stands there, and each command does what it is for."""
    with Reader(monkeypatch, tmp_path) as reader:
        reader.has_a_picture("pictures/fox.png")
        for name, text in {"jobs.jsonl": JOBS, **files_of(PAGES[page])}.items():
            reader.writes(name, text)
        for typed, following in zip(TYPED[page], [*TYPED[page][1:], None], strict=True):
            code, said = reader.types(typed.command)
            where = f"{page}:{typed.line}: {typed.command}\n{said}"
            assert typed.says is None or agrees(typed.says, said), where
            assert code == 0 or (following and following.command == "echo $?"), where


def test_nothing_else_is_left_out() -> None:
    """What is not typed is needed on some page; whoever rewrites the last one takes it from the list."""
    everything = [typed.command for page, text in PAGES.items() for typed in typed_on(page, text)]
    assert [start for start in NOT_TYPED if not any(command.startswith(start) for command in everything)] == []


def test_every_block_is_seen() -> None:
    """No command escapes by an unusual fence, or by standing among what is not typed."""
    for page, text in PAGES.items():
        fences = re.findall(r"^ *(?:```+|~~~+) *\{?\.?(?:bash|zsh|sh|shell|console|text)\b", text, re.MULTILINE)
        blocks = [found for found in FENCE.finditer(text) if found["language"] in {*SHELLS, "console", "text"}]
        assert len(fences) == len(blocks), page
        for found in blocks:
            assert "$ " not in found["body"] or found["language"] != "text", page
            assert "$ " not in found["body"] or found["language"] not in SHELLS, page


def test_blocks_are_read() -> None:
    """Commands are found with their line and what they say, files by their title."""
    assert files_of(PAGE) == {"fox.py": "a = 1\n"}
    assert [(typed.line, typed.command, typed.says) for typed in typed_on("page", PAGE)] == [
        (8, "kling ls  # all", "one\ntwo"),
        (11, "kling get REF", ""),
        (15, "export A=b", None),
    ]


@pytest.mark.parametrize(
    ("shown", "said", "right"),
    [
        ("a\n", "a", True),
        ("saved after 0:07", "saved after 0:12", True),
        ("0 s ago     text2video", "12 s ago    text2video", True),
        ("out/812345678901234567.mp4", "out/888888888888888888.mp4", True),
        ("kling1,http://127.0.0.1:8765,…", "kling1,http://127.0.0.1:4321,videos,text2video,1,,", True),
        ("2 jobs", "3 jobs", False),
        ("a", "a\nb", False),
    ],
)
def test_what_agrees(shown: str, said: str, *, right: bool) -> None:
    """Only what differs each time may differ."""
    assert agrees(shown, said) is right
