"""A batch: all of it checked before any of it is bought, each line bought once, the rest taken up again by the same command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from attrs import define, evolve, field, frozen

from kling_async._auth import Credentials
from kling_async._fault import ConfigurationError, KlingError
from kling_async._order import mint_key
from kling_async.cli._exit import Exit, exit_of
from kling_async.cli._journal import journal_path
from kling_async.cli._known import known_rows, origin_set, remembered
from kling_async.cli._lines import Item, Mistake
from kling_async.cli._options import Following
from kling_async.cli._progress import summary_of
from kling_async.cli._run import Desk, repeated
from kling_async.cli._tasks import facts_of, save
from kling_async.errors import JournalError, ResultMissingError, SubmitOutcomeUnknown, TaskFailedError
from kling_async.jobs import Job
from kling_async.journal import Creation, Journal, State
from kling_async.recovery import ref_of
from kling_async.session import KlingSession
from kling_async.tasks import TaskHandle

__all__ = ["Plan", "preview", "refuse", "work_off"]

REPORT: Final = "report.jsonl"
_OUTCOMES: Final = ("saved", "failed", "not saved", "unknown", "not bought")
"""In the order in which they are told. A job that is "not saved" runs on, or its files could not be written."""


@frozen(kw_only=True)
class Plan:
    """What is to be done, and how."""

    items: list[Item]
    command: list[str]
    """The words that say the same again, without the options."""
    options: Following
    key: Credentials | None = field(repr=False)
    in_flight: int
    retry_failed: bool


@frozen
class _Known:
    """One line, and what the journal knows of it."""

    item: Item
    row: Creation | None = None
    files: tuple[str, ...] = ()

    @property
    def state(self) -> State | None:
        """Where its latest purchase stands."""
        return None if self.row is None else self.row.state

    @property
    def outcome(self) -> str:
        """What is done about it, in one word; empty while there is something left to do."""
        if self.state is State.FAILED:
            return "failed"
        return "saved" if self.state is State.SUCCEEDED and self.files and all(map(os.path.isfile, self.files)) else ""


async def refuse(desk: Desk, mistakes: list[Mistake], options: Following) -> Exit:
    """Tell every mistake; nothing of the batch is bought."""
    for mistake in mistakes:
        if options.json:
            desk.board.result(json.dumps({"place": mistake.place, "field": mistake.field or None, "rule": mistake.rule}))
        desk.board.copyable(f"kling: {mistake}")
    count = len({mistake.place for mistake in mistakes})
    desk.board.say(f"kling: {count} {'line is' if count == 1 else 'lines are'} wrong; nothing was bought")
    return Exit.WRONG


async def preview(desk: Desk, plan: Plan) -> Exit:
    """Write what would be bought; needs no key, but knows only with one what has been bought before."""
    knows = plan.key and (path := journal_path(plan.options)) is not None and path.exists()
    if knows:
        async with remembered(plan.options) as journal:
            lines = await _standing(journal, plan)
    else:
        lines = [_Known(item) for item in plan.items]
    verbs = Counter[str]()
    for known in lines:
        job = known.item.job
        bought = known.state not in {None, State.REJECTED, State.WITHDRAWN, State.ABANDONED}
        verbs[job.verb] += not bought
        what = "bought before" if bought else "would be bought"
        if plan.options.json:
            desk.board.result(json.dumps({"place": known.item.place, "job": job.verb, "word": known.item.word, "bought": bought}))
        else:
            desk.board.result(f"{known.item.place}  {job.verb}  {what}  {_prompt_of(job)}".rstrip())
    told = ", ".join(f"{count} {verb}" for verb, count in verbs.items() if count)
    desk.board.say(f"{verbs.total()} of {len(lines)} jobs would be bought{f': {told}' if told else ''}; nothing was sent.")
    return Exit.OK


async def work_off(desk: Desk, kling: KlingSession, plan: Plan) -> Exit:
    """Buy what has not been bought, follow it, save its files, and report each job as it ends."""
    async with remembered(plan.options) as journal:
        lines = await _standing(journal, plan)
        batch = _Batch(desk, kling, plan, plan.options.output / REPORT, len(lines))
        for known in lines:
            if known.outcome:
                batch.done_before(known)
        left = iter([known.item for known in lines if not known.outcome])
        batch.tell()
        async with kling, asyncio.TaskGroup() as group:
            for _ in range(min(plan.in_flight, len(lines))):
                group.create_task(batch.take(left))
    return batch.sum_up()


async def _standing(journal: Journal, plan: Plan) -> list[_Known]:
    """Each line under the word of its latest purchase.

    Raises:
        ConfigurationError: it was begun at another gateway, which may be the same service under another name.
    """
    rows, origin = {row.dedupe: row for row in await known_rows(journal, plan.key) if row.dedupe}, origin_set(plan.options)
    elsewhere = Counter(row.origin for item in plan.items if (row := rows.get(item.word)) and origin not in {None, row.origin})
    if elsewhere:
        ((other, count),) = elsewhere.most_common(1)
        raise ConfigurationError(
            f"{count} of the {len(plan.items)} jobs were begun at {other}, with this key: with KLING_BASE_URL set to that the batch goes "
            "on there; to buy all of it here as well, give it a --journal of its own. Nothing was bought"
        )
    return [await _known(journal, item, rows, again=plan.retry_failed) for item in plan.items]


async def _known(journal: Journal, item: Item, rows: dict[str, Creation], *, again: bool) -> _Known:
    row, attempt = rows.get(item.word), 1
    while row is not None and (later := rows.get(f"{item.word}-again-{attempt}")):
        item, row, attempt = evolve(item, word=str(later.dedupe)), later, attempt + 1
    if row is None:
        return _Known(item)
    if row.state is State.FAILED and again:
        return _Known(evolve(item, word=f"{item.word.partition('-again-')[0]}-again-{attempt}"))
    files = tuple(artifact.path for artifact in await journal.artifacts(row.key)) if row.state is State.SUCCEEDED else ()
    return _Known(item, row, files)


@define(eq=False)
class _Batch:
    """One run."""

    desk: Desk
    kling: KlingSession
    plan: Plan
    report: Path
    total: int
    _outcomes: Counter[str] = field(factory=Counter, init=False)
    _codes: list[Exit] = field(factory=list, init=False)
    _before: int = field(default=0, init=False)
    _under_way: int = field(default=0, init=False)
    _halted: bool = field(default=False, init=False)
    """Whether nothing can be bought: what stops one line, such as an empty account or a full disk, stops them all."""

    _reported: set[str] = field(init=False)
    """The tasks that the report tells of."""

    def __attrs_post_init__(self) -> None:
        self.desk.resume = shlex.join([*self.plan.command, *repeated(self.plan.options)])
        try:
            # Before anything is bought: a directory that cannot be made is better known now.
            self.report.parent.mkdir(parents=True, exist_ok=True)
            self.report.touch()
            self._reported = set(_tasks_in(self.report.read_text(encoding="utf-8", errors="replace")))
        except OSError as error:
            raise ConfigurationError(f"{self.report}: {error.strerror or type(error).__name__}; nothing was bought") from None

    def done_before(self, known: _Known) -> None:
        """Count what an earlier run has done; one that was killed may not have reported it."""
        assert known.row is not None  # noqa: S101  what has an outcome was bought
        self._outcomes[known.outcome] += 1
        self._before += 1
        if known.outcome == "failed":
            self._codes.append(Exit.TASK_FAILED)
        if known.row.task_id not in self._reported:
            self._append(_facts(known.item, known.outcome, facts_of(ref_of(known.row), None, tuple(map(Path, known.files)))))

    async def take(self, left: Iterator[Item]) -> None:
        """Do one line after the other, until none is left."""
        for item in left:
            if self._halted:
                return
            self._under_way += 1
            self.tell()
            try:
                await self._one(item)
            finally:
                self._under_way -= 1
                self.tell()

    async def _one(self, item: Item) -> None:
        board, handle = self.desk.board, None
        # Named here and not by the session, so that it can be shown while it waits.
        job = evolve(item.job, external_task_id=item.job.external_task_id or mint_key())
        what = f"{job.verb}  {_prompt_of(job)}".rstrip()
        row, paths, error = board.row(item.place, "submitting", what=what, external_task_id=job.external_task_id), tuple[Path, ...](), None
        try:
            handle = await self._bought(job, item.word)
            board.note(row, handle.status if handle.snapshot else "looking")
            paths = await save(board, row, handle, self.plan.options.output)
        except KlingError as failure:
            error = failure
            self._codes.append(exit_of(failure))
            self._halted |= handle is None and (exit_of(failure) is Exit.NO_ACCESS or isinstance(failure, JournalError))
        outcome = _outcome(handle, error)
        if error is not None:
            board.end(row, outcome)
            self.desk.complain(error, item.place)
        self._outcomes[outcome] += 1
        ref, snapshot = (handle.ref, handle.snapshot) if handle else (None, None)
        line = _facts(item, outcome, facts_of(ref, snapshot, paths, error))
        self._append(line)
        for text in [line] if self.plan.options.json else map(str, paths):
            board.result(text)

    async def _bought(self, job: Job[Any], word: str) -> TaskHandle[Any]:
        self.desk.asked.append(word)
        try:
            return await self.kling.submit(job, dedupe=word)
        finally:
            self.desk.asked.remove(word)

    def _append(self, line: str) -> None:
        try:
            with self.report.open("a+b") as file:
                # A process that was killed may have left half a line.
                whole = file.tell() == 0 or (file.seek(-1, os.SEEK_END) and file.read(1) == b"\n")
                file.write((b"" if whole else b"\n") + line.encode() + b"\n")
        except OSError as error:
            # No reason to stop what is paid for: the journal has it.
            self.desk.board.say(f"kling: {self.report}: {error.strerror or type(error).__name__}; the next run reports it")

    def tell(self) -> None:
        """Say how far it is, below what moves and for whoever ends it now."""
        done, left = self._told(), self.total - self._outcomes.total() - self._under_way
        self.desk.board.footer = ", ".join(filter(None, (done, f"{self._under_way} under way", f"{left} to come" if left else "")))
        open_ = self.total - self._outcomes["saved"] - self._outcomes["failed"]
        going = ", tasks under way go on" if open_ > self._outcomes["not bought"] else ""
        self.desk.left = f"{open_} of {self.total} jobs {'is' if open_ == 1 else 'are'} not done{going}" if open_ else ""

    def sum_up(self) -> Exit:
        """Say what became of all; the first that did not end well decides the exit code."""
        before = f" ({self._before} of them before)" if self._before else ""
        told = f"{self.total} {'job' if self.total == 1 else 'jobs'}: {self._told() or 'nothing done'}{before}"
        if not self.plan.options.quiet:
            self.desk.board.say(f"{told}; each is in {self.report}")
        if self._outcomes["failed"]:
            self.desk.board.say("To buy those that failed again, add --retry-failed.")
        return next(iter(self._codes), Exit.OK)

    def _told(self) -> str:
        return ", ".join(f"{self._outcomes[outcome]} {outcome}" for outcome in _OUTCOMES if self._outcomes[outcome])


def _prompt_of(job: Job[Any]) -> str:
    return summary_of(getattr(job, "prompt", None))


def _facts(item: Item, outcome: str, facts: dict[str, Any]) -> str:
    return json.dumps({"place": item.place, "job": item.job.verb, "outcome": outcome, **facts})


def _tasks_in(report: str) -> Iterator[str]:
    for line in report.splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            yield str(json.loads(line)["task_id"])


def _outcome(handle: TaskHandle[Any] | None, error: KlingError | None) -> str:
    match error:
        case None:
            return "saved"
        case TaskFailedError() | ResultMissingError():
            return "failed"
        case SubmitOutcomeUnknown():
            return "unknown"
        case _:
            return "not bought" if handle is None else "not saved"
