"""One command per job, made from its class: what a field means is said there, and nowhere twice."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

from attrs import NOTHING, Attribute, fields
from cyclopts import Parameter, Token

from kling_async.cli._options import Submission
from kling_async.errors import InvalidJobError
from kling_async.jobs import Job
from kling_async.jobs._base import Checked
from kling_async.media import Blob, Link

__all__ = ["alternatives_of", "command_for", "parsed"]

_OPTIONS: Final = "options"


def command_for(kind: type[Job[Any]]) -> Callable[..., int]:
    """The command that buys a task of this kind: its positional argument is the prompt, or what comes first without one."""
    hints = get_type_hints(kind)
    attributes = fields(kind)
    names = [attribute.name for attribute in attributes]
    first = "prompt" if "prompt" in names else next((attribute.name for attribute in attributes if attribute.default is NOTHING), None)

    def command(*given: Any, **named: Any) -> int:
        options: Submission = named.pop(_OPTIONS, Submission())
        if given:
            named[str(first)] = given[0]

        from kling_async.cli._run import Desk, open_session, run
        from kling_async.cli._tasks import buy

        def work(desk: Desk) -> Any:
            job = kind(**{name: _parsed(name, value, hints[name]) for name, value in named.items() if value is not None})
            return buy(desk, open_session(desk, options), job, options)

        return run(options, work)

    common = inspect.Parameter(_OPTIONS, inspect.Parameter.KEYWORD_ONLY, default=Submission(), annotation=Submission)
    ordered = sorted(attributes, key=lambda attribute: attribute.name != first)
    parameters = [*(_parameter(attribute, hints[attribute.name], positional=attribute.name == first) for attribute in ordered), common]
    setattr(command, "__signature__", inspect.Signature(parameters, return_annotation=int))  # noqa: B010  functions declare none
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = (inspect.getdoc(kind) or "").partition(" Source:")[0]
    return command


def _parameter(attribute: Attribute[Any], hint: Any, *, positional: bool) -> inspect.Parameter:
    kind, option = _option(alternatives_of(hint))
    required = attribute.default is NOTHING
    return inspect.Parameter(
        attribute.name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD if positional else inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else None,
        annotation=Annotated[kind if required else kind | None, Parameter(help=attribute.metadata["help"]), option],
    )


def _option(alternatives: tuple[Any, ...]) -> tuple[Any, Parameter]:
    """How a field of these types is typed into a shell."""
    if Blob in alternatives:
        # Taken as the text that it is; that it may be a path tells the shells to complete it.
        return str | Path, Parameter(metavar="PATH|URL" if Link in alternatives else "PATH")
    if _is_nested(alternatives[0]):
        return str, Parameter(metavar="JSON")
    if get_origin(alternatives[0]) is tuple:
        return list[str], Parameter(metavar="ID", negative_iterable=())
    if int in alternatives:
        return int, Parameter(converter=_whole)
    return Union[alternatives], Parameter()  # noqa: UP007  the members are a value here


def _parsed(name: str, value: Any, hint: Any) -> Any:
    return parsed(name, value) if _is_nested(alternatives_of(hint)[0]) else value


def parsed(name: str, text: str) -> Any:
    """The value of a field that was typed as JSON.

    Raises:
        InvalidJobError: it is not JSON.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidJobError(name, f"is not JSON: {error}") from error


def _is_nested(kind: Any) -> bool:
    """Whether values of this type have fields of their own, or hold such values."""
    inner = get_args(kind)[0] if get_origin(kind) is tuple else kind
    return get_origin(kind) is Mapping or (isinstance(inner, type) and issubclass(inner, Checked))


def alternatives_of(hint: Any) -> tuple[Any, ...]:
    """The types that a field takes, less `None`."""
    members = get_args(hint) if get_origin(hint) in {Union, types.UnionType} else (hint,)
    return tuple(member for member in members if member is not types.NoneType)


def _whole(_: type, tokens: Sequence[Token]) -> int:
    # Not rounded: nobody who writes 5.5 seconds wants to pay for 6.
    try:
        return int(tokens[0].value)
    except ValueError:
        msg = f"must be a whole number, not {tokens[0].value}"
        raise ValueError(msg) from None
