"""Writes the pages on jobs, errors, states and the command line: what a word means stands in one place, the code."""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import attrs
from rich.console import Console

import kling_async.errors
import kling_async.jobs
from kling_async._dialects import _STATUS
from kling_async.cli import MEANINGS, app
from kling_async.cli._exit import Exit, exit_of
from kling_async.errors import _BY_CODE, _BY_STATUS, ApiError, KlingError
from kling_async.jobs import ALL_JOBS, Job
from kling_async.journal import State
from kling_async.journal._rows import MOVES
from kling_async.models import Status

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
ERRORS = """# Errors

All descend from `KlingError`, pickle, and carry no secret. [How to handle them](../how-to/errors.md), and [what they say about
money](../explanation/money.md).

## The tree

*Retryable*: may doing the same again, unchanged, help? *Billed*: was money spent? *Exit*: what the command line ends with.

| error | means | retryable | billed | exit |
| --- | --- | --- | --- | --- |
"""
CODES = """
## Codes

An `ApiError` has the class of its code, else of its HTTP status; any other 5xx is a `ServiceError`. What a status means for a paid request
is another question: only a refusal that can be read proves that nothing was bought.

| code | HTTP status | error |
| --- | --- | --- |
"""
CLASSES = """
## Each of them

::: kling_async._fault.KlingError

::: kling_async._fault.ConfigurationError

::: kling_async._fault.InvalidRefError

::: kling_async.errors
    options:
      show_root_heading: false
      show_root_toc_entry: false
      show_if_no_docstring: false
      members_order: source
      filters: ["!^_", "!^api_error_class$", "!^KlingError$", "!^ConfigurationError$", "!^InvalidRefError$"]
"""
STATES = """# States

## Of a task

What `Snapshot.status` and `TaskHandle.status` say. Servers spell states in many ways; any of the words gives the state, in upper or lower
case, and the word as it was sent is in `Snapshot.raw_status`.

| status | means | final | words |
| --- | --- | --- | --- |
"""
CREATIONS = """
## Of a purchase

What the journal says of a creation: `Creation.state`, and the first word of each entry of `kling ls`. A task that is found makes it
`accepted`, whatever it was.

| state | means | final | may become |
| --- | --- | --- | --- |
"""


def errors() -> str:
    """The page on errors: the tree, the codes, and each class."""
    tree = [_error(cls, depth) for cls, depth in _tree(KlingError, 0)]
    rows = [f"| {_codes(cls, _BY_CODE)} | {_codes(cls, _BY_STATUS)} | `{cls.__name__}` |" for cls, _ in _tree(ApiError, 0)]
    return "\n".join([ERRORS + "\n".join(tree), CODES + "\n".join(row for row in rows if not row.startswith("|  |  |")), CLASSES])


def _tree(cls: type[KlingError], depth: int) -> Iterator[tuple[type[KlingError], int]]:
    yield cls, depth
    order = kling_async.errors.__all__
    public = (known for known in cls.__subclasses__() if known.__name__ in order)
    for below in sorted(public, key=lambda known: inspect.getsourcelines(known)[1]):
        yield from _tree(below, depth + 1)


def _error(cls: type[KlingError], depth: int) -> str:
    billed = {True: "yes", False: "no", None: "not known"}[cls.billed]
    meaning = (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")
    code = exit_of(cls.__new__(cls))
    ends = "" if code is Exit.DEFECT else int(code)  # the command line never meets those
    below = "·\N{NO-BREAK SPACE}" * depth
    return f"| {below}`{cls.__name__}` | {meaning} | {'yes' if cls.retryable else 'no'} | {billed} | {ends} |"


def _codes(cls: type[KlingError], table: Mapping[Any, type[ApiError]]) -> str:
    return ", ".join(f"`{code}`" for code, known in table.items() if known is cls)


def states() -> str:
    """The page on states: of tasks, and of purchases."""
    words = {status: ", ".join(f"`{word}`" for word, known in _STATUS.items() if known is status) for status in Status}
    tasks = [
        f"| `{status}` | {meaning} | {'yes' if status.final else 'no'} | {words[status] or 'any other'} |"
        for status, meaning in _members(Status)
    ]
    moves = {state: ", ".join(f"`{after}`" for after in State if after in MOVES[state]) for state in State}
    creations = [f"| `{state}` | {meaning} | {'yes' if state.final else 'no'} | {moves[state]} |" for state, meaning in _members(State)]
    return "\n".join([STATES + "\n".join(tasks), CREATIONS + "\n".join(creations), ""])


def _members(cls: type[Any]) -> Iterator[tuple[Any, str]]:
    """The members of an enumeration, and the docstrings below them."""
    (body,) = (node.body for node in ast.parse(textwrap.dedent(inspect.getsource(cls))).body if isinstance(node, ast.ClassDef))
    for node, following in zip(body, [*body[1:], None], strict=True):
        match node, following:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str(meaning))):
                yield cls[name], meaning
            case ast.Assign(targets=[ast.Name(id=name)]), _:
                yield cls[name], ""
            case _:
                pass


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
    return f"| `{attribute.name}` | `{takes}` | {attribute.metadata['help']}{required}{known}{models} |"


def _plain(annotation: Any) -> str:
    """A type as one would write it, without the modules its parts come from."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text)


PAGES = {"jobs.md": jobs, "errors.md": errors, "states.md": states, "command-line.md": command_line}
"""What is written, and from what."""

if __name__ == "__main__":
    for name, text in PAGES.items():
        (REFERENCE / name).write_text(text(), encoding="utf-8")
        print(f"wrote reference/{name}")
