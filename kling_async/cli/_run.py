"""Runs a command's work: errors become one line and an exit code, and no task that costs money is left unnamed."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import signal
import threading
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import FrameType
from typing import Any

from attrs import define, field

from kling_async._auth import Credentials
from kling_async._fault import KlingError
from kling_async._pacing import Polling
from kling_async.cli._exit import Exit, exit_of
from kling_async.cli._journal import journal_path
from kling_async.cli._key import key_for
from kling_async.cli._options import Connection, Following, Talk
from kling_async.cli._progress import Board, printable
from kling_async.errors import InvalidJobError, JournalError, SubmitOutcomeUnknown
from kling_async.models import TaskRef
from kling_async.observers import log_records
from kling_async.session import KlingSession

__all__ = ["Desk", "Work", "open_session", "repeated", "run", "settle_by_hand"]


@define(eq=False)
class Desk:
    """One command at work: how it talks, and what must be told when it ends."""

    options: Talk
    board: Board
    running: dict[TaskRef, str] = field(factory=dict, init=False)
    """Tasks that are accepted and not known to have ended, with what they are called here."""
    asked: list[str] = field(factory=list, init=False)
    """The `external_task_id` of each paid request that has no answer yet."""
    resume: str = field(default="", init=False)
    """The command that takes up all of it again, where there is one."""
    left: str = field(default="", init=False)
    """What is left for that command, in words; empty when nothing is."""

    def complain(self, error: KlingError, label: str = "") -> Exit:
        """Say what went wrong in one line; gives the exit code for it."""
        if self.options.debug:
            self.board.copyable("".join(traceback.format_exception(error)).rstrip())
        text = str(error)
        if isinstance(error, InvalidJobError):
            text = f"{error.field}: {error.rule}" if label else f"--{error.field.replace('_', '-')}: {error.rule}"
        # Where the command knows the task by a name, its reference is on the screen already.
        ref = getattr(error, "ref", None)
        if label:
            text = f"{label}: {text.removesuffix(f' [{ref}]')}"
        if isinstance(error, JournalError) and text.startswith("journal "):
            text += "; choose another file with --journal, or go without with --no-journal"
        self.board.say(f"kling: {printable(text)}")
        if isinstance(error, SubmitOutcomeUnknown):
            self.unsettled(error.external_task_id)
        return exit_of(error)

    def unsettled(self, key: str) -> None:
        """Say what to do about a creation whose outcome nobody knows."""
        if isinstance(self.options, Connection) and journal_path(self.options):
            self.board.copyable("\n".join(settle_by_hand(key)))

    def last_words(self) -> str:
        """What to do about tasks and requests whose end nobody has seen; nothing when there are none."""
        if self.resume:
            return "" if not self.left else f"kling: {self.left}; to go on:\n{self.resume}"
        lines = [f"kling: a paid request may be accepted: look for external_task_id {key} before you buy again" for key in self.asked]
        if self.running:
            command = shlex.join(["kling", "wait", *map(str, self.running), *repeated(self.options)])
            count = len(self.running)
            lines += [f"kling: {f'{count} tasks go' if count > 1 else 'the task goes'} on; to wait again:", command]
        return "\n".join(lines)


@define(eq=False)
class _Spoken(logging.Handler):
    """Lets the library's warnings pass without spoiling what is drawn."""

    board: Board

    def __attrs_pre_init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """Say it."""
        self.board.say(f"kling: {printable(record.getMessage())}")


Work = Callable[[Desk], Coroutine[Any, Any, Exit]]
"""Prepares outside the event loop, where a person may be asked; what it returns runs inside."""


def run(options: Talk, work: Work, *, interrupted: Exit = Exit.INTERRUPTED) -> int:
    """Do a command's work and give the process's exit code; `interrupted` is the one for Ctrl-C."""
    desk = Desk(options, Board(quiet=isinstance(options, Following) and options.quiet))
    spoken, log = _Spoken(desk.board), logging.getLogger("kling_async")
    log.addHandler(spoken)
    try:
        with desk.board, asyncio.Runner() as runner:
            code = runner.run(_interruptible(desk, work(desk)))
    except KlingError as error:
        code = desk.complain(error)
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = interrupted
    except Exception:  # noqa: BLE001  a defect: its traceback is what a report needs, and running tasks must be named all the same
        desk.board.copyable(f"{traceback.format_exc()}kling: a defect in this program; please report it")
        code = Exit.DEFECT
    finally:
        log.removeHandler(spoken)
    if words := desk.last_words():
        desk.board.copyable(words)
    return code


def open_session(desk: Desk, options: Connection, key: Credentials | None = None) -> KlingSession:
    """A session with that key, else with the one of the environment, or of the person at the terminal; the board shows what it waits for.

    Raises:
        ConfigurationError: the setup is wrong.
    """
    return KlingSession(
        key or key_for(options),
        base_url=options.base_url,
        profile=options.profile,
        polling=Polling(timeout=options.timeout) if isinstance(options, Following) else None,
        journal=journal_path(options),
        observers=(log_records, desk.board.hear),
    )


async def _interruptible(desk: Desk, work: Coroutine[Any, Any, Exit]) -> Exit:
    # The first Ctrl-C ends the waiting, and then the session gives requests under way their time; the second ends the process.
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101  coroutines run in tasks
    pressed = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        nonlocal pressed
        if pressed:
            desk.board.abandon(f"\n{desk.last_words()}\n")
            os._exit(Exit.INTERRUPTED)
        pressed = True
        loop.call_soon_threadsafe(stop)

    def stop() -> None:
        if desk.asked:
            desk.board.say("kling: waiting for the answer to a paid request; Ctrl-C again ends at once")
        task.cancel()

    before = signal.getsignal(signal.SIGINT)
    if before in {signal.SIG_IGN, None} or threading.current_thread() is not threading.main_thread():
        return await work
    signal.signal(signal.SIGINT, interrupt)
    try:
        return await work
    finally:
        signal.signal(signal.SIGINT, before)


def settle_by_hand(key: str) -> tuple[str, str]:
    """The two commands that end not knowing, by what the service's console shows."""
    return f"  kling adopt {key} TASK_ID   when the service's console shows the task", f"  kling abandon {key}         when it shows none"


def repeated(options: Talk) -> list[str]:
    """The options that a command to resume with needs again."""
    words = list[str]()
    if isinstance(options, Following) and options.output != Path():
        words += ["--output", str(options.output)]
    if isinstance(options, Connection):
        if options.profile != "gateway":
            words += ["--profile", options.profile]
        if options.base_url and options.base_url != os.environ.get("KLING_BASE_URL"):
            words += ["--base-url", options.base_url]
        if options.no_journal:
            words.append("--no-journal")
        elif options.journal and options.journal != os.environ.get("KLING_JOURNAL"):
            words += ["--journal", str(options.journal)]
    return words
