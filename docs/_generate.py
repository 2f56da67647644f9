"""Writes the pages on jobs and on the command line: what a field or an option means stands in one place, the code."""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import attrs
from rich.console import Console

import kling_async.jobs
from kling_async.cli import MEANINGS, app
from kling_async.jobs import ALL_JOBS, Job

REFERENCE = Path(__file__).parent / "reference"
COMMAND_LINE = """# Command line

`kling`, or `python -m kling_async`, with the extra `cli`. Results go to standard output, talk to standard error.

## Exit codes

| code | means |
| --- | --- |
"""
JOBS = """# Jobs

One frozen, keyword-only value per endpoint, named after it. `await kling.text2video(…)` is `await kling.submit(Text2Video(…))`. A
job is checked when it is made: a broken rule is an `InvalidJobError` that names the field and the rule, before anything is sent.

`None` means *not said*: the field is not sent, and the service's own default applies. Words that are listed for a field are
those known today; others are passed on. `MediaLike` is a URL, bytes, base64 text, a path, or a file opened for reading bytes.
"""


def command_line() -> str:
    """The page on the command line: exit codes, and the help of every command as a terminal shows it."""
    codes = [f"| {int(code)} | {meaning} |" for code, meaning in MEANINGS.items()]
    commands = [name for name in app if not name.startswith("-") and app[name].show]
    return COMMAND_LINE + "\n".join([*codes, "", *(f"## {name}\n\n```text\n{_help(name)}\n```\n" for name in commands)])


def _help(command: str) -> str:
    screen = io.StringIO()
    app.help_print([command], console=Console(file=screen, width=100, color_system=None))
    return "\n".join(line.rstrip() for line in screen.getvalue().strip().splitlines())


def jobs() -> str:
    """The page on jobs: what each makes, and a table of its fields."""
    parts = (getattr(kling_async.jobs, name) for name in kling_async.jobs.__all__)
    values = [part for part in parts if attrs.has(part) and not issubclass(part, Job) and _rows(part)]
    nested = ["## Values inside jobs\n", *("\n".join(_section(value, level=3)) for value in values)] if values else []
    return "\n".join([JOBS, *("\n".join(_section(job, level=2)) for job in ALL_JOBS), *nested])


def _section(cls: type[Any], *, level: int) -> Iterator[str]:
    yield f"{'#' * level} {cls.__name__}\n"
    if issubclass(cls, Job):
        (result,) = (get_args(base)[0] for base in vars(cls)["__orig_bases__"] if get_args(base))
        yield f"`await kling.{cls.verb}(…)` posts to `{cls.route}`; awaiting the handle gives `{_plain(result)}`.\n"
    yield f"{inspect.getdoc(cls)}\n"
    yield "| field | takes | meaning |"
    yield "| --- | --- | --- |"
    yield from _rows(cls)
    yield ""


def _rows(cls: type[Any]) -> list[str]:
    parameters = inspect.signature(cls).parameters
    return [_row(attribute, parameters[attribute.name]) for attribute in attrs.fields(cls) if "help" in attribute.metadata]


def _row(attribute: attrs.Attribute[Any], parameter: inspect.Parameter) -> str:
    required = " **Required.**" if parameter.default is parameter.empty else ""
    choices = attribute.metadata.get("choices") or ()
    known = f" Known: {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
    taken = attribute.metadata.get("models") or ()
    models = f" Only with {', '.join(f'`{model}`' for model in taken)}." if taken else ""
    takes = _plain(attribute.type if parameter.annotation is parameter.empty else parameter.annotation)
    if choices:
        takes = re.sub(r"^\w+ \| str", "str", takes)  # the words behind the alias are listed
    takes = takes.replace("|", "\\|")
    return f"| `{attribute.name}` | `{takes}` | {attribute.metadata['help']}{required}{known}{models} |"


def _plain(annotation: Any) -> str:
    """A type as one would write it, without the modules its parts come from."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text)


if __name__ == "__main__":
    for name, text in (("jobs.md", jobs()), ("command-line.md", command_line())):
        (REFERENCE / name).write_text(text, encoding="utf-8")
        print(f"wrote reference/{name}")
