"""The options that commands share. Values only: what they mean is in the help, what they do elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from attrs import Attribute, frozen
from cyclopts import Group, Parameter
from cyclopts.validators import Number

__all__ = ["COMMON", "Connection", "Following", "Submission", "Talk", "flag"]

COMMON: Final = Group("Options", sort_key=8)
_GATEWAY: Final = Group("Gateway", sort_key=9)
_JOURNAL: Final = Group("Journal", sort_key=10)
_LONGEST_WAIT: Final = 7 * 86400.0


def flag(meaning: str, *, env_var: str | None = None) -> Parameter:
    """An option that is there or not."""
    return Parameter(negative=(), show_default=False, help=meaning, env_var=env_var)


def _debug_last(_: type[Any], attributes: list[Attribute[Any]]) -> list[Attribute[Any]]:
    """Help lists in this order, and what is inherited would come first."""
    return sorted(attributes, key=lambda attribute: attribute.name == "debug")


@Parameter(name="*", group=COMMON)
@frozen(kw_only=True, field_transformer=_debug_last)
class Talk:
    """How a command speaks."""

    debug: Annotated[bool, flag("Show tracebacks.", env_var="KLING_DEBUG")] = False


@Parameter(name="*", group=COMMON)
@frozen(kw_only=True, field_transformer=_debug_last)
class Connection(Talk):
    """Which gateway a command talks to, and in what form it answers."""

    json: Annotated[bool, flag("Write results as JSON: one object per task, a line each.")] = False
    base_url: Annotated[str | None, Parameter(group=_GATEWAY, env_var="KLING_BASE_URL", metavar="URL", help="Where it is.")] = None
    profile: Annotated[Literal["gateway", "official"], Parameter(group=_GATEWAY, help="What kind of server it is.")] = "gateway"
    journal: Annotated[
        str | Path | None,  # a text, which may be empty; that it is a path tells the shells to complete it
        Parameter(
            group=_JOURNAL,
            env_var="KLING_JOURNAL",
            metavar="PATH",
            help="Where purchases are recorded; else in a file of yours, which `kling doctor` names.",
        ),
    ] = None
    no_journal: Annotated[
        bool, Parameter(group=_JOURNAL, negative=(), show_default=False, help="Record in memory only: a crash loses what was bought.")
    ] = False


@Parameter(name="*", group=COMMON)
@frozen(kw_only=True, field_transformer=_debug_last)
class Following(Connection):
    """How a command waits for tasks, and where it saves their files."""

    output: Annotated[Path, Parameter(name=("--output", "-o"), metavar="DIR", help="Where to save the files.")] = Path()
    timeout: Annotated[
        float,
        Parameter(metavar="SECONDS", validator=Number(gt=0, lte=_LONGEST_WAIT), help="How long to wait; the task goes on after that."),
    ] = 3600.0
    quiet: Annotated[bool, flag("Show no progress.")] = False


@Parameter(name="*", group=COMMON)
@frozen(kw_only=True, field_transformer=_debug_last)
class Submission(Following):
    """Whether a command that buys a task also waits for it."""

    no_wait: Annotated[bool, flag("Only submit; write the reference for `kling wait`.")] = False
