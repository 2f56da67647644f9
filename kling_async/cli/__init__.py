"""The command line: results on stdout, talk on stderr, the key never in an argument. Heavy modules load inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Final, Literal

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.validators import Number

from kling_async._version import __version__
from kling_async.cli._exit import MEANINGS, Exit
from kling_async.cli._jobs import command_for
from kling_async.cli._options import COMMON, Connection, Following, Talk, flag
from kling_async.jobs import ALL_JOBS

__all__ = ["MEANINGS", "Exit", "app", "main"]

_BUY: Final = Group("Make something", sort_key=0)
_TASKS: Final = Group("Follow tasks", sort_key=1)
_TRY: Final = Group("Try it, without a key", sort_key=2)
_CODES: Final = "\n".join(f"{code:>3}  {meaning}" for code, meaning in MEANINGS.items())
_FOLLOWING, _CONNECTION, _TALK = Following(), Connection(), Talk()
_MORE: Final = "The key and the exit codes: kling --help"

app = App(
    name="kling",
    help="Kling video and image generation through a gateway.",
    version=__version__,
    help_format="plaintext",
    help_epilogue=f"The key comes from KLING_API_KEY, or is asked for on a terminal.\n\nExit codes:\n{_CODES}",
    result_action="return_value",
)
"""Every command, by the name that people type."""

Refs = Annotated[str, Parameter(required=True, help="What --no-wait wrote, or Ctrl-C left on the screen.")]
Output = Annotated[str, Parameter(name=("--output", "-o"), metavar="DIR", help="Where to save the files.")]


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; `words` is what follows `kling`. Gives the exit code."""
    try:
        code = app(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        print(f"kling: {error}", file=sys.stderr)  # noqa: T201
        return Exit.WRONG
    return code if isinstance(code, int) else Exit.OK


@app.command(group=_TASKS, help_epilogue=_MORE)
def wait(*refs: Refs, options: Following = _FOLLOWING) -> int:
    """Wait for tasks made earlier, and save their files."""
    from kling_async.cli._run import open_session, run
    from kling_async.cli._tasks import wait as work

    return run(options, lambda desk: work(desk, open_session(options), refs, options))


@app.command(group=_TASKS, help_epilogue=_MORE)
def get(ref: Refs, /, *, options: Connection = _CONNECTION) -> int:
    """Look at a task once."""
    from kling_async.cli._run import open_session, run
    from kling_async.cli._tasks import look

    return run(options, lambda desk: look(desk, open_session(options), ref, options))


@app.command(group=_TRY, help_epilogue=_MORE)
def demo(
    *,
    output: Output = "out",
    keep: Annotated[bool, flag("Leave the emulator running until Ctrl-C.")] = False,
    options: Talk = _TALK,
) -> int:
    """Watch real generations run against an emulator of the gateway, and keep the files."""
    from kling_async.cli._box import demonstrate
    from kling_async.cli._run import run

    return run(options, lambda desk: demonstrate(desk, output, keep=keep), interrupted=Exit.OK if keep else Exit.INTERRUPTED)


@app.command(group=_TRY, help_epilogue=_MORE)
def emulator(
    *,
    port: Annotated[int, Parameter(help="Where to listen; 0 picks a free port.")] = 8765,
    host: Annotated[str, Parameter(metavar="ADDRESS", help="Leave it on loopback: it is not made for strangers.")] = "127.0.0.1",
    profile: Annotated[Literal["gateway", "official", "newapi", "onehub"], Parameter(help="What kind of server to be.")] = "gateway",
    speed: Annotated[float, Parameter(validator=Number(gte=0), help="Seconds of the service in one of yours.")] = 1.0,
    options: Talk = _TALK,
) -> int:
    """Run the gateway's emulator until Ctrl-C: the same API, real media files, no money."""
    from kling_async.cli._box import serve
    from kling_async.cli._run import run
    from kling_async.emulator import Emulator

    gateway = Emulator(profile=profile, host=host, port=port, speed=speed)
    return run(options, lambda desk: serve(desk, gateway), interrupted=Exit.OK)


for _job in ALL_JOBS:
    _command = command_for(_job)
    app.command(_command, name=_job.verb.replace("_", "-"), group=_BUY, help_epilogue=_MORE)
    if "_" in _job.verb:
        app.command(_command, name=_job.verb, show=False, help_epilogue=_MORE)
for _flag in ("--help", "--version"):
    app[_flag].group = COMMON
