"""Tasks on the command line: buy one, follow it to its files, wait for it later, look at it once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from attrs import asdict, evolve

from kling_async._fault import KlingError
from kling_async._order import mint_key
from kling_async.cli._exit import Exit, exit_of
from kling_async.cli._options import Connection, Following, Submission
from kling_async.cli._progress import Board, Row, printable, summary_of
from kling_async.cli._run import Desk
from kling_async.errors import NotFoundError, ResultExpiredError, ResultMissingError, SubmitOutcomeUnknown, TaskFailedError
from kling_async.files import Entry
from kling_async.jobs import Job, job_class
from kling_async.models import Snapshot, Status, TaskRef
from kling_async.session import KlingSession
from kling_async.tasks import TaskHandle

__all__ = ["as_json", "buy", "facts_of", "follow", "follow_all", "look", "save", "verb_of", "wait"]


async def buy(desk: Desk, kling: KlingSession, job: Job[Any], options: Submission) -> Exit:
    """Submit a job, and unless told otherwise follow its task."""
    # Named here and not by the session, so that it can be told while there is no answer yet.
    job = evolve(job, external_task_id=job.external_task_id or mint_key())
    key = str(job.external_task_id)
    what = summary_of(getattr(job, "prompt", None))
    row = desk.board.row(job.verb, "submitting", what=what, external_task_id=key)
    desk.asked.append(key)
    try:
        async with kling:
            try:
                handle = await kling.submit(job)
            except KlingError as error:
                desk.asked.remove(key)
                desk.board.drop(row)
                if options.json:
                    desk.board.result(as_json(error=error))
                return desk.complain(error)
            desk.asked.remove(key)
            if options.no_wait:
                desk.board.drop(row)
                desk.board.result(as_json(handle.ref, handle.snapshot) if options.json else str(handle.ref))
                return Exit.OK
            desk.running[handle.ref] = job.verb
            if not options.quiet:
                desk.board.copyable(f"{job.verb}: accepted {handle.ref}")
            return await follow(desk, handle, job.verb, options, row)
    finally:
        # Interrupted while the request was out: closing the session has waited for the answer.
        for ref in kling.orphans():
            desk.running[ref] = job.verb
            desk.asked.clear()


async def wait(desk: Desk, kling: KlingSession, refs: Sequence[str], options: Following) -> Exit:
    """Follow tasks made earlier, all at once; the first that does not end well decides the exit code."""
    async with kling:
        return await follow_all(desk, [kling.attach(ref) for ref in dict.fromkeys(refs)], options)


async def follow_all(desk: Desk, handles: Sequence[TaskHandle[Any]], options: Following) -> Exit:
    """Follow tasks, all at once; the first that does not end well decides the exit code."""
    for handle in handles:
        desk.running[handle.ref] = verb_of(handle.ref) + (f" {handle.task_id}" if len(handles) > 1 else "")
    codes = await asyncio.gather(*(follow(desk, handle, desk.running[handle.ref], options) for handle in handles))
    return next(filter(None, codes), Exit.OK)


async def follow(desk: Desk, handle: TaskHandle[Any], label: str, options: Following, row: Row | None = None) -> Exit:
    """Show a task until it ends, save its files, write their paths; its errors become an exit code."""
    row = row or desk.board.row(label, "looking")
    if handle.snapshot:
        row.state = handle.status
    paths: tuple[Path, ...] = ()
    code, error = Exit.OK, None
    try:
        paths = await save(desk.board, row, handle, options.output)
    except KlingError as failure:
        desk.board.end(row, "failed" if handle.status is Status.FAILED else "given up")
        code, error = desk.complain(failure, label), failure
    if error is None or isinstance(error, TaskFailedError | ResultMissingError | ResultExpiredError | NotFoundError):
        del desk.running[handle.ref]
    if options.json:
        desk.board.result(as_json(handle.ref, handle.snapshot, paths, error))
    else:
        for path in paths:
            desk.board.result(str(path))
    return code


async def save(board: Board, row: Row, handle: TaskHandle[Any], directory: Path) -> tuple[Path, ...]:
    """Show a task until its files are saved; gives their paths."""
    async for snapshot in handle.updates():
        row.usual = handle.usual
        board.note(row, "saving" if snapshot.status is Status.SUCCEED else snapshot.raw_status or snapshot.status)
    paths = await handle.save(directory)
    board.end(row, "saved")
    return paths


async def look(desk: Desk, kling: KlingSession, ref: str, options: Connection) -> Exit:
    """Read a task once and write what was seen."""
    async with kling:
        snapshot = await kling.get(ref)
    if options.json:
        desk.board.result(as_json(TaskRef.parse(ref), snapshot))
        return Exit.OK
    entries: tuple[Entry, ...] = (*snapshot.videos, *snapshot.images, *snapshot.audios)
    facts = {
        "task": snapshot.task_id,
        "status": snapshot.raw_status or snapshot.status,
        "message": snapshot.message,
        "created": snapshot.created_at and snapshot.created_at.isoformat(" ", "seconds"),
        "updated": snapshot.updated_at and snapshot.updated_at.isoformat(" ", "seconds"),
    }
    for name, fact in (*facts.items(), *(("url", entry.url) for entry in entries)):
        if fact:
            desk.board.result(f"{name:<8} {printable(fact)}")
    return Exit.OK


def verb_of(ref: TaskRef) -> str:
    """What its kind of task is called here."""
    kind = job_class(ref.action, ref.action2)
    return kind.verb if kind else ref.route


def as_json(
    ref: TaskRef | None = None, snapshot: Snapshot | None = None, paths: tuple[Path, ...] = (), error: KlingError | None = None
) -> str:
    """One line about one task."""
    return json.dumps(facts_of(ref, snapshot, paths, error))


def facts_of(
    ref: TaskRef | None = None, snapshot: Snapshot | None = None, paths: tuple[Path, ...] = (), error: KlingError | None = None
) -> dict[str, Any]:
    """What is told of one task: always the same names, `None` where there is nothing to say."""
    seen = snapshot or Snapshot(task_id=ref.task_id if ref else "", status=Status.UNKNOWN)
    return {
        "ref": ref and str(ref),
        **asdict(seen, filter=lambda attribute, _: attribute.name != "_raw", value_serializer=_plain),
        "files": [str(path) for path in paths],
        "error": error and _error_facts(error),
    }


def _plain(_: object, __: object, value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _error_facts(error: KlingError) -> dict[str, Any]:
    return {
        "type": type(error).__name__,
        "message": str(error),
        "exit_code": int(exit_of(error)),
        "retryable": error.retryable,
        "billed": error.billed,
        "external_task_id": error.external_task_id if isinstance(error, SubmitOutcomeUnknown) else None,
    }
