"""What the shells complete, asked of the shells themselves with the script that `kling --install-completion` puts in place."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Literal

import pytest

pytest.importorskip("cyclopts", reason="the command line is an extra")

from kling_async.cli import app

COMPLETED = {
    "kling text": {"text2video"},
    "kling text2video a-fox --model-name kling-v2-m": {"kling-v2-master"},
    "kling text2video a-fox --sound --m": {"--mode", "--model-name", "--multi-prompt", "--multi-shot"},
    "kling emulator --profile o": {"official", "onehub"},
    "kling ls --no": {"--no-journal"},
    "kling batch jo": {"jobs.jsonl"},
    "kling image2video a-fox --image fo": {"fox.png"},
    "kling wait kling1 --journal jo": {"jobs.jsonl"},
    "kling text2video a-fox -o cl": {"clips"},
}
"""What is typed when Tab is pressed, and what it may become."""

BASH = r"""
source ./script
while read -r line; do
  COMP_WORDS=($line) COMP_LINE=$line COMP_POINT=${#line}
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
  _kling kling "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
  echo "${COMPREPLY[@]}"
done
"""
FISH = r'source ./script; while read line; echo (complete -C "$line" | string split -f 1 \t | string trim -c /); end'
ASKING: dict[Literal["bash", "fish"], tuple[str, ...]] = {
    "bash": ("bash", "--norc", "-c", BASH),
    "fish": ("fish", "--no-config", "-c", FISH),
}


@pytest.mark.parametrize("shell", ASKING)
def test_completion(shell: Literal["bash", "fish"], tmp_path: Path) -> None:
    """Commands, options, the words that an option takes, and paths where a path is meant."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    for name in ("jobs.jsonl", "fox.png"):
        (tmp_path / name).touch()
    (tmp_path / "clips").mkdir()
    (tmp_path / "script").write_text(app.generate_completion(shell=shell), encoding="utf-8")
    typed = "".join(f"{line}\n" for line in COMPLETED)
    done = subprocess.run(ASKING[shell], cwd=tmp_path, input=typed, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert {line: set(answer.split()) for line, answer in zip(COMPLETED, done.stdout.splitlines(), strict=True)} == COMPLETED


def test_zsh_reads_its_script(tmp_path: Path) -> None:
    """The script for zsh is one; what it completes was tried by hand."""
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    (tmp_path / "script").write_text(app.generate_completion(shell="zsh"), encoding="utf-8")
    subprocess.run(["zsh", "-n", "script"], cwd=tmp_path, check=True)
