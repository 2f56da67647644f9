"""What the journal knows, on the command line: listed, taken up again after a crash, saved later, settled by hand."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any, Final

from attrs import evolve
from rich.text import Text

from kling_async._auth import Credentials, fingerprint
from kling_async._fault import ConfigurationError, KlingError
from kling_async._profile import base_url, origin_of, profile_named
from kling_async.cli._exit import Exit
from kling_async.cli._journal import journal_path
from kling_async.cli._key import key_at_hand
from kling_async.cli._options import Connection, Following
from kling_async.cli._progress import printable, summary_of
from kling_async.cli._run import Desk, settle_by_hand
from kling_async.cli._tasks import follow, follow_all, verb_of
from kling_async.errors import TaskTimeoutError
from kling_async.jobs import job_class
from kling_async.journal import Creation, Journal, State
from kling_async.models import Status
from kling_async.recovery import ref_of
from kling_async.session import KlingSession
from kling_async.tasks import TaskHandle

__all__ = ["abandon", "adopt", "ago", "keep", "known_rows", "list_known", "origin_set", "recover", "remembered"]

_LISTED: Final = 20
_MOST: Final = 1_000_000
_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"), (0, "s"))
_STYLES: Final = {State.SUCCEEDED: "green", State.FAILED: "red", State.REJECTED: "red", State.UNKNOWN: "yellow"}


def ago(seconds: float) -> str:
    """A span of time for people, such as `5 min`."""
    size, unit = next(known for known in _UNITS if seconds >= known[0] or not known[0])
    return f"{max(0, int(seconds / (size or 1)))} {unit}"


def _summary(request: str) -> str:
    """What a request asks for, in a few words: its prompt."""
    asked = json.loads(request)
    return summary_of(asked.get("prompt")) if isinstance(asked, dict) else ""


def remembered(options: Connection) -> Journal:
    """The journal, for those who cannot do without.

    Raises:
        ConfigurationError: the command was told to have none.
    """
    path = journal_path(options)
    if path is None:
        msg = "this works on the journal; leave --no-journal away"
        raise ConfigurationError(msg)
    return Journal(path)


def origin_set(options: Connection) -> str | None:
    """The gateway that is set, as the journal names it.

    Raises:
        ConfigurationError: what is set is no address.
    """
    url = options.base_url
    return origin_of(base_url(url, profile_named(options.profile), insecure=True)) if url else None


async def known_rows(journal: Journal, key: Credentials | None, origin: str | None = None) -> list[Creation]:
    """What the journal holds of that account and that gateway, newest first; of all where one is not said."""
    account = fingerprint(key) if key else None
    rows = await journal.rows(most=_MOST)
    return [row for row in rows if account in {None, row.account} and origin in {None, row.origin}]


async def list_known(desk: Desk, options: Connection, *, everything: bool) -> Exit:
    """Write what the journal knows of tasks, newest first."""
    board = desk.board
    async with remembered(options) as journal:
        rows = await (journal.rows(most=_MOST) if everything else known_rows(journal, key_at_hand(), origin_set(options)))
        shown = rows if everything else rows[:_LISTED]
        files = [[artifact.path for artifact in await journal.artifacts(row.key)] for row in shown]
    for row, paths in zip(shown, files, strict=True):
        for line in (_as_json(row, paths),) if options.json else _lines(row, paths):
            board.result(line)
    if not rows:
        board.say(f"Nothing yet in {journal.path}{'' if everything else ' for this key and gateway; kling ls --all shows all'}.")
    elif len(rows) > len(shown):
        board.say(f"and {len(rows) - len(shown)} older: kling ls --all")
    return Exit.OK


async def recover(desk: Desk, kling: KlingSession, options: Following) -> Exit:
    """Take up all that is unfinished, and tell what nobody knows the outcome of."""
    async with kling:
        row = desk.board.row("journal", "asking what became of paid requests")
        handles = await kling.recover()
        desk.board.drop(row)
        unknowns = await kling.unknowns()
        if not handles and not unknowns:
            desk.board.say("Nothing is unfinished.")
        for creation in unknowns:
            asked = f"{ago(time.time() - creation.created_at)} ago, {_verb(creation)} {_summary(creation.request)}".rstrip()
            desk.board.say(f"kling: nobody knows whether {creation.key} was accepted ({asked}); nothing buys it again until you say:")
            desk.board.copyable("\n".join(settle_by_hand(creation.key)))
        code = await follow_all(desk, handles, options)
    return code or (Exit.UNKNOWN if unknowns else Exit.OK)


async def keep(desk: Desk, kling: KlingSession, refs: Sequence[str], options: Following) -> Exit:
    """Save the files of finished tasks; what is not finished is not waited for."""
    async with kling:
        handles = [kling.attach(ref) for ref in dict.fromkeys(refs)]
        codes = await asyncio.gather(*(_keep(desk, handle, options) for handle in handles))
    return next(filter(None, codes), Exit.OK)


async def adopt(desk: Desk, kling: KlingSession, options: Connection, key: str, task_id: str) -> Exit:
    """Take a person's word that a task is the creation's, after a look at it."""
    async with remembered(options) as journal, kling:
        row = await journal.get(key)
        if row.task_id is None:
            # Looked at first: a slip of the hand would stand in the journal for good.
            await kling.get(ref_of(evolve(row, task_id=task_id)))
        handle = await kling.adopt(key, task_id)
    desk.board.result(str(handle.ref))
    return Exit.OK


async def abandon(desk: Desk, kling: KlingSession, key: str) -> Exit:
    """Take a person's word that nothing came of a creation."""
    async with kling:
        await kling.abandon(key)
    desk.board.say(f"{key} is given up; the same may be bought again.")
    return Exit.OK


async def _keep(desk: Desk, handle: TaskHandle[Any], options: Following) -> Exit:
    label = f"{verb_of(handle.ref)} {handle.task_id}"
    desk.running[handle.ref] = label
    try:
        seen = await handle.refresh()
    except KlingError as error:
        del desk.running[handle.ref]
        return desk.complain(error, label)
    if not seen.status.final:
        return desk.complain(TaskTimeoutError(f"not finished yet, it is {seen.raw_status or Status.UNKNOWN}", ref=handle.ref), label)
    return await follow(desk, handle, label, options)


def _verb(row: Creation) -> str:
    kind = job_class(row.action, row.action2)
    return kind.verb if kind else f"{row.action}/{row.action2}"


def _lines(row: Creation, paths: Sequence[str]) -> list[Text]:
    age, made = f"{ago(time.time() - row.created_at)} ago", f"{_verb(row):<14}  {_summary(row.request)}"
    head = Text(no_wrap=True, overflow="ellipsis")
    lines = [head.append(f"{row.state:<9}", _STYLES.get(row.state)).append(f"  {age:<10}  {made}".rstrip())]
    if row.task_id is not None:
        lines.append(Text(f"  {ref_of(row)}", "dim"))
    lines += [Text(f"  {printable(path)}") for path in paths]
    if row.state is State.UNKNOWN:
        lines += map(Text, settle_by_hand(row.key))
    elif row.state is State.SUCCEEDED and not paths:
        lines.append(Text("  no file recorded; to fetch it: kling save and the line above"))
    elif row.note and row.state in {State.FAILED, State.REJECTED}:
        lines.append(Text(f"  {printable(row.note.partition(' [kling1,')[0])}"))
    return lines


def _as_json(row: Creation, paths: Sequence[str]) -> str:
    facts = {
        "ref": str(ref_of(row)) if row.task_id is not None else None,
        "state": row.state,
        "job": _verb(row),
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "external_task_id": row.key,
        "task_id": row.task_id,
        "dedupe": row.dedupe,
        "origin": row.origin,
        "note": row.note,
        "prompt": _summary(row.request),
        "files": list(paths),
    }
    return json.dumps(facts)
