"""The command line: results on stdout, talk on stderr, the key never in an argument. Heavy modules load inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

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
_JOURNAL: Final = Group("Look back", sort_key=2)
_TRY: Final = Group("Try and check", sort_key=3)
_CODES: Final = "\n".join(f"{code:>3}  {meaning}" for code, meaning in MEANINGS.items())
_IN_FLIGHT: Final = 20
_FOLLOWING, _CONNECTION, _TALK = Following(), Connection(), Talk()
_MORE: Final = "The key and the exit codes: kling --help"

app = App(
    name="kling",
    help="Kling video and image generation through a gateway.",
    version=__version__,
    help_format="plaintext",
    help_epilogue="The key comes from KLING_API_KEY, or from KLING_ACCESS_KEY and KLING_SECRET_KEY, or is asked for on a terminal.\n\n"
    f"Exit codes:\n{_CODES}",
    result_action="return_value",
)
"""Every command, by the name that people type."""

Refs = Annotated[str, Parameter(required=True, help="What --no-wait wrote, or Ctrl-C left on the screen.")]
Key = Annotated[str, Parameter(help="The external_task_id that `kling recover` shows.")]
Output = Annotated[Path, Parameter(name=("--output", "-o"), metavar="DIR", help="Where to save the files.")]


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; `words` is what follows `kling`. Gives the exit code."""
    try:
        code = app(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        print(f"kling: {error}", file=sys.stderr)  # noqa: T201
        return Exit.WRONG
    return code if isinstance(code, int) else Exit.OK


@app.command(group=_BUY, help_epilogue=_MORE, sort_key=1)
def batch(
    file: Annotated[Path, Parameter(metavar="FILE", help="JSON lines, a CSV file, or a folder of pictures.")],
    /,
    *,
    job: Annotated[str | None, Parameter(help="What to make of lines that do not say it, such as text2video.")] = None,
    prompt: Annotated[
        str | None, Parameter(help="For a folder: the prompt for each picture; {name} is its name without the ending.")
    ] = None,
    set_: Annotated[
        tuple[str, ...],
        Parameter(name="--set", metavar="NAME=VALUE", negative=(), show_default=False, help="A field for all lines that do not say it."),
    ] = (),
    in_flight: Annotated[int, Parameter(validator=Number(gte=1), help="Jobs under way at once.")] = _IN_FLIGHT,
    dry_run: Annotated[bool, flag("Check every line and list what would be bought; send nothing.")] = False,
    retry_failed: Annotated[bool, flag("Buy tasks that failed once more.")] = False,
    options: Following = _FOLLOWING,
) -> int:
    """Do many jobs; the same command again goes on where it stopped, and buys nothing twice."""
    from kling_async.cli._batch import Plan, preview, refuse, work_off
    from kling_async.cli._key import key_at_hand, key_for
    from kling_async.cli._lines import read_batch
    from kling_async.cli._run import Desk, open_session, run

    def work(desk: Desk) -> Coroutine[Any, Any, Exit]:
        items, mistakes = read_batch(file, verb=job, prompt=prompt, given=set_)
        if mistakes:
            return refuse(desk, mistakes, options)
        said = {"--job": job, "--prompt": prompt}
        command = ["kling", "batch", str(file), *(word for name, text in said.items() if text is not None for word in (name, text))]
        command += [word for text in set_ for word in ("--set", text)]
        command += ["--in-flight", str(in_flight)] if in_flight != _IN_FLIGHT else []
        key = key_at_hand() if dry_run else key_for(options)
        plan = Plan(items=items, command=command, options=options, key=key, in_flight=in_flight, retry_failed=retry_failed)
        return preview(desk, plan) if dry_run else work_off(desk, open_session(desk, options, key), plan)

    return run(options, work)


@app.command(group=_TASKS, help_epilogue=_MORE)
def wait(*refs: Refs, options: Following = _FOLLOWING) -> int:
    """Wait for tasks made earlier, and save their files."""
    from kling_async.cli._run import open_session, run
    from kling_async.cli._tasks import wait as work

    return run(options, lambda desk: work(desk, open_session(desk, options), refs, options))


@app.command(group=_TASKS, help_epilogue=_MORE)
def get(ref: Refs, /, *, options: Connection = _CONNECTION) -> int:
    """Look at a task once."""
    from kling_async.cli._run import open_session, run
    from kling_async.cli._tasks import look

    return run(options, lambda desk: look(desk, open_session(desk, options), ref, options))


@app.command(group=_TASKS, help_epilogue=_MORE)
def save(*refs: Refs, options: Following = _FOLLOWING) -> int:
    """Save the files of finished tasks; what is there already is left alone."""
    from kling_async.cli._known import keep
    from kling_async.cli._run import open_session, run

    return run(options, lambda desk: keep(desk, open_session(desk, options), refs, options))


@app.command(group=_JOURNAL, help_epilogue=_MORE)
def ls(
    *,
    everything: Annotated[
        bool, Parameter(name="--all", negative=(), show_default=False, help="All, of every account and gateway.")
    ] = False,
    options: Connection = _CONNECTION,
) -> int:
    """List what was bought with this key at this gateway, newest first."""
    from kling_async.cli._known import list_known
    from kling_async.cli._run import run

    return run(options, lambda desk: list_known(desk, options, everything=everything))


@app.command(group=_JOURNAL, help_epilogue=_MORE)
def recover(*, options: Following = _FOLLOWING) -> int:
    """Wait for all that is unfinished, save its files, and tell what nobody knows the outcome of."""
    from kling_async.cli._known import recover as work
    from kling_async.cli._run import open_session, run

    return run(options, lambda desk: work(desk, open_session(desk, options), options))


@app.command(group=_JOURNAL, help_epilogue=_MORE)
def adopt(key: Key, task_id: Annotated[str, Parameter(help="The task's.")], /, *, options: Connection = _CONNECTION) -> int:
    """Settle an unknown outcome: the service's console shows this task for that key."""
    from kling_async.cli._known import adopt as work
    from kling_async.cli._run import open_session, run

    return run(options, lambda desk: work(desk, open_session(desk, options), options, key, task_id))


@app.command(group=_JOURNAL, help_epilogue=_MORE)
def abandon(key: Key, /, *, options: Connection = _CONNECTION) -> int:
    """Settle an unknown outcome: you are sure that the service has no such task."""
    from kling_async.cli._known import abandon as work
    from kling_async.cli._run import open_session, run

    return run(options, lambda desk: work(desk, open_session(desk, options), key))


@app.command(group=_TRY, help_epilogue=_MORE)
def doctor(*, options: Connection = _CONNECTION) -> int:
    """Check key, address, clock, gateway and journal; buys nothing."""
    from kling_async.cli._doctor import examine
    from kling_async.cli._run import run

    return run(options, lambda desk: examine(desk, options))


@app.command(group=_TRY, help_epilogue=_MORE)
def demo(
    *,
    output: Output = Path("out"),
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
app.register_install_completion_command(help="Let the shell complete commands and options.")
for _flag in ("--help", "--install-completion", "--version"):
    app[_flag].group = COMMON
