# /// script
# requires-python = ">=3.11"
# dependencies = ["nox[uv]>=2025.10.16"]
# ///
"""The workshop: every gate is a session, and `python3 noxfile.py -s NAME` needs nothing installed but Python."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
NOX = "nox[uv]>=2025.10.16"


def bootstrap() -> None:
    """Install nox into a virtual environment of its own, once, and start again from there."""
    if sys.version_info < (3, 11):  # noqa: UP036 -- the one file that an older Python gets to read
        sys.exit(f"kling_async needs Python 3.11 or newer; this is {sys.version.split()[0]}. Run this file with a newer one.")
    home = ROOT / ".nox" / "bootstrap-{}.{}".format(*sys.version_info)
    if Path(sys.prefix) == home:
        sys.exit(f"{home} has lost nox: delete it and run the command again.")
    windows = os.name == "nt"
    python = home / ("Scripts/python.exe" if windows else "bin/python")
    if not (python.exists() and (home / "ready").exists()):
        if importlib.util.find_spec("ensurepip") is None:
            sys.exit("This Python makes no virtual environments: install python3-venv (Debian, Ubuntu), then run the command again.")
        print(f"nox is not installed: putting it into {home.relative_to(ROOT)}, once.", file=sys.stderr)
        venv.create(home, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", NOX], check=True)
        (home / "ready").touch()
    if "UV_DEFAULT_INDEX" not in os.environ and (index := _index_of_pip(python)):
        os.environ["UV_DEFAULT_INDEX"] = index  # uv does not read pip's settings
    command = [str(python), __file__, *sys.argv[1:]]
    if windows:
        sys.exit(subprocess.call(command))
    os.execv(python, command)


def _index_of_pip(python: Path) -> str | None:
    """The package index that pip was told to use instead of its default, by file or by environment."""
    lines = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False).stdout.splitlines()
    settings = [line.partition("=") for line in lines]
    return next((str(ast.literal_eval(value)) for key, _, value in reversed(settings) if key.endswith(".index-url")), None)


try:
    import nox
except ModuleNotFoundError:
    if __name__ != "__main__":
        raise
    bootstrap()

os.environ["UV_PYTHON_DOWNLOADS"] = "never"
nox.needs_version = ">=2025.10.16"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["tests"]

PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
THIS = "{}.{}".format(*sys.version_info)
PARALLEL = ("--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
OTHERS = [version for version in nox.project.python_versions(PROJECT) if version != THIS]


def group(*names: str) -> tuple[str, ...]:
    """The requirements of dependency groups: pip and uv spell asking for a group differently."""
    return nox.project.dependency_groups(PROJECT, *names)


@nox.session
def demo(session: nox.Session) -> None:
    """Watch real generations run against the gateway in the box, and find the files in `out/`."""
    session.install("-e", ".[cli,emulator]")
    session.run("kling", "demo", *session.posargs, interrupt_timeout=10.0)


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test on this Python."""
    have(session, ("jq",), "jq")  # its test says so where there is none
    session.install("-e", ".[cli,emulator,postgres,speed]", *group("test", "floors"))
    session.run("pytest", *PARALLEL, *session.posargs)


def have(session: nox.Session, programs: Sequence[str], *packages: str) -> bool:
    """Whether one of the programs is on this machine; on a Debian that is ours its packages are installed, if they can be had."""
    if any(map(shutil.which, programs)):
        return True
    if shutil.which("apt-get") is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    wanted = ("install", "--yes", "--quiet", "--no-install-recommends", *packages)
    for words in (wanted, ("update", "--quiet"), wanted):  # a fresh machine has no list of packages, or an old one
        with contextlib.suppress(nox.command.CommandFailed):
            session.run("apt-get", *words, external=True, env={"DEBIAN_FRONTEND": "noninteractive"})
        if any(map(shutil.which, programs)):
            return True
    return False


def have_chromium(session: nox.Session) -> None:
    """See to a browser that plays H.264, which the one that Playwright downloads does not."""
    if not have(session, CHROMIUM, "chromium", "fonts-dejavu-core"):
        session.error(f"no browser: install one of {', '.join(CHROMIUM)}; on Debian `apt-get install chromium`")


@nox.session
def browser(session: nox.Session) -> None:
    """Run the tests in a real browser: chromium, which is installed where that can be done."""
    have_chromium(session)
    session.install("-e", ".", *group("test", "browser"))
    session.run("pytest", "tests/browser", *session.posargs)


@nox.session
def screenshots(session: nox.Session) -> None:
    """Make the pictures of web pages in `docs/assets` anew; look at them before you commit them."""
    have_chromium(session)
    session.install("-e", ".[emulator]", *group("browser", "web"))
    session.run("python", "scripts/make_screenshots.py")


@nox.session
def matrix(session: nox.Session) -> None:
    """Run the tests of the fault matrix, and print each row: passed, failed, or without a test yet."""
    session.install("-e", ".[cli,emulator,postgres]", *group("test"))
    session.run("pytest", *PARALLEL, "-m", "row", "--matrix", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what is promised about speed, and print the table: `-- --quick`, `-- --write`, `-- --peers`, or names: `-- deadlines`."""
    session.install("-e", ".")
    for peer in group("peers") if "--peers" in session.posargs else ():
        session.install(peer, success_codes=[0, 1, 2])  # not every index has it: the table says which it went without
    session.run("python", "benchmarks", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Buy for ten minutes while everything goes wrong at random, then compare the books (row L5); `-- --seconds 60 --seed 1`."""
    session.install("-e", ".[emulator]")
    session.run("python", "-W", "error", "tests/soak.py", *session.posargs)


@nox.session(python=OTHERS)
def pythons(session: nox.Session) -> None:
    """Run the tests on each other supported Python that is found; the exhaustive ones have been run by `tests`."""
    session.install("-e", ".[cli,emulator,postgres]", *group("test", "floors"))
    session.run("pytest", *PARALLEL, "-m", "not exhaustive", *session.posargs)


@nox.session(python=nox.project.python_versions(PROJECT)[0])
def oldest(session: nox.Session) -> None:
    """Run the rows of the fault matrix with the lowest versions that the project allows, on its oldest Python (X8)."""
    session.install("-e", ".[cli,emulator,postgres]", *group("test"), "--resolution=lowest-direct")
    rows = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests" / "io").glob("test_rows_*.py"))]
    session.run("pytest", *PARALLEL, "-m", "not exhaustive", "tests/edges/test_bounds.py", *rows, env={"KLING_OLDEST": "1"})


@nox.session
def coverage(session: nox.Session) -> None:
    """Show the lines and branches that no test reaches."""
    session.install("-e", ".[cli,emulator,postgres]", *group("test", "floors"), "coverage>=7.10")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "report")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format; `-- --fix` mends what can be mended."""
    session.install(*group("lint"))
    mend = "--fix" in session.posargs
    session.run("ruff", "check", *session.posargs, ".")
    session.run("ruff", "format", *([] if mend else ["--check"]), ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Check types with mypy and pyright, both strict."""
    # pyright runs on node: without one on the machine it comes from the package index instead of from a download.
    node = [] if shutil.which("node") else ["pyright[nodejs]"]
    session.install("-e", ".[cli,emulator,postgres,speed]", *group("test", "types", "browser"), *node, "nox")
    session.run("mypy", "kling_async", "tests", "noxfile.py", "docs/_generate.py", "docs/_llms.py", "scripts", "benchmarks", "examples")
    session.run("pyright", env={"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"})


@nox.session
def floors(session: nox.Session) -> None:
    """Check that imports only go down."""
    session.install(*group("floors"))
    session.run("lint-imports", "--no-logo")


@nox.session
def workflows(session: nox.Session) -> None:
    """Check the workflow files: pinned actions, no more rights than needed."""
    session.install(*group("workflows"))
    session.run("zizmor", "--offline", "--pedantic", ".github")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into `site/`, also as text for language models; a warning fails."""
    session.install("-e", ".[cli]", *group("docs"))
    session.run("python", "docs/_generate.py")
    said = session.run("zensical", "build", "--clean", "--strict", silent=True)
    print(said)
    if "griffe:" in str(said):
        session.error("a docstring is not as it should be: see above")  # which is no issue in the eyes of the builder
    session.run("python", "docs/_llms.py", "site")


@nox.session
def build(session: nox.Session) -> None:
    """Build the source distribution, and from it the wheel, into `dist/`."""
    session.install(*group("package"), *PROJECT["build-system"]["requires"])
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run("python", "-m", "build", "--no-isolation")


@nox.session(requires=["build"], reuse_venv=False)
def package(session: nox.Session) -> None:
    """Install the wheel alone and run the tests against it, out of the checkout's sight."""
    (wheel,) = (ROOT / "dist").glob("*.whl")
    if (size := wheel.stat().st_size) >= 1_000_000:
        session.error(f"{wheel.name} has {size} bytes; a megabyte is the limit: find what slipped in")
    session.install(str(wheel), *group("test"))
    away = Path(session.create_tmp())
    for name in ("tests", "docs", "examples"):
        shutil.copytree(ROOT / name, away / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, away)
    session.chdir(away)
    session.run("pytest", *PARALLEL, "-m", "not exhaustive", *session.posargs)


if __name__ == "__main__":
    sys.argv[1:1] = ["--noxfile", __file__]
    nox.main()
