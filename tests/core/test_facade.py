from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import kling_async

SOURCE = Path(kling_async.__file__).read_text(encoding="utf-8")
PUBLIC = {
    *("KlingSession", "TaskHandle", "TaskRef", "Snapshot", "Status", "Video", "Image", "Audio", "Polling", "Retry", "Profile"),
    *("Credentials", "ApiKey", "KeyPair", "ALL_JOBS", "Job", "CameraControl", "DynamicMask", "MultiShot"),
    *("GenerateImage", "Text2Video", "Image2Video", "VideoExtend", "LipSync", "VirtualTryOn", "__version__"),
    *("Outcome", "Journal", "PostgresJournal", "Creation", "Artifact", "Expected"),
    *("Observer", "Record", "Exchange", "StatusChange", "Waiting", "Anomaly", "Progress", "Saved", "Settled"),
    *(name for name in import_module("kling_async.errors").__all__ if name.endswith(("Error", "Unknown"))),
}


def declared() -> dict[str, str]:
    """The names that type checkers see, and the modules they see them in."""
    imports = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.ImportFrom)]
    ours = [(node.module, alias) for node in imports if node.module and node.module.startswith("kling_async") for alias in node.names]
    return {alias.name: module for module, alias in ours if alias.asname is None}


def test_the_surface() -> None:
    """The package offers exactly the names that are promised."""
    assert set(kling_async.__all__) == PUBLIC
    assert len(kling_async.__all__) == len(PUBLIC)


@pytest.mark.parametrize("name", kling_async.__all__)
def test_names_resolve_to_what_checkers_see(name: str) -> None:
    """What runs is what type checkers and editors were told: the same object from the same module."""
    assert name in declared()
    assert getattr(kling_async, name) is getattr(import_module(declared()[name]), name)


def test_checkers_see_nothing_else() -> None:
    """No name is declared for type checkers that is not offered at run time."""
    assert set(declared()) == set(kling_async.__all__)
    assert dir(kling_async) == kling_async.__all__


@pytest.mark.parametrize("name", ["Poller", "Text2Vidoe", "aiohttp", "_auth_", "__path_"])
def test_unknown_names(name: str) -> None:
    """Any other name is an `AttributeError` that says so."""
    with pytest.raises(AttributeError, match=rf"kling_async.*{name}"):
        getattr(kling_async, name)


def test_aiohttp_is_not_needed_for_values() -> None:
    """Importing the package, and every job, error and value of it, does not bring aiohttp or cattrs: programs start fast."""
    light = [name for name in kling_async.__all__ if name not in {"KlingSession", "TaskHandle", "Outcome"}]
    code = f"import sys; from kling_async import {', '.join(light)}; print(*({{'aiohttp', 'cattrs'}} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []
