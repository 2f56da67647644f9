"""The clips of the page: each order bought once, followed, kept on disk, and found again after a restart.

There is no database but the SDK's journal: it knows what was asked for, what became of it, and where the files are.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path
from typing import Any, Self

from attrs import define, evolve, field, frozen

from kling_async import (
    AccountError,
    ApiError,
    ContentPolicyError,
    Creation,
    Image2Video,
    Journal,
    KlingError,
    KlingSession,
    Status,
    SubmitOutcomeUnknown,
    TaskHandle,
    Text2Video,
)
from kling_async.journal import State

LATEST = 200
"""Clips on the page."""

_log = logging.getLogger(__name__)


@frozen(kw_only=True)
class Clip:
    """What the page shows of one order."""

    order: str
    prompt: str
    asked_at: float
    """Unix seconds."""
    state: str = "waiting"
    """`waiting` for its turn, `submitted`, `processing` at the service, `saving`, `ready`, `failed`, or `unknown`."""
    note: str = ""
    """What to tell whoever asked for it."""
    usual: float | None = None
    """Seconds that such clips usually take: an estimate."""
    files: tuple[str, ...] = ()
    """Names in the folder."""


@define(eq=False, kw_only=True)
class Studio:
    """Makes clips. Enter it where its session runs; leaving it stops the following, not the tasks."""

    kling: KlingSession
    journal: Journal
    """The session's."""
    folder: Path
    """Where files are kept: the service's links expire."""
    pause: float = 60.0
    """Seconds until something that costs nothing is tried again."""
    clips: dict[str, Clip] = field(factory=dict, init=False)
    """By order, oldest first."""
    _changes: dict[str, int] = field(factory=dict, init=False)
    """The number of each clip's last change; none twice."""
    _count: int = field(default=0, init=False)
    _news: asyncio.Event = field(factory=asyncio.Event, init=False)
    _hushed: bool = field(default=False, init=False)
    _work: set[asyncio.Task[None]] = field(factory=set, init=False)

    async def __aenter__(self) -> Self:
        """Show what the journal knows, and go on with what an earlier process has left."""
        left = []
        for row in reversed(await self.journal.rows(most=LATEST)):
            if row.dedupe is None:
                continue  # bought by another program
            kept = tuple(Path(artifact.path) for artifact in await self.journal.artifacts(row.key))
            files = tuple(path.name for path in kept if path.exists())
            self._show(_remembered(row, row.dedupe, files))
            if self.clips[row.dedupe].state not in {"ready", "failed"}:
                left.append(row)
        self._start(self._go_on(left))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop; what is under way is in the journal."""
        for task in self._work:
            task.cancel()
        if self._work:
            await asyncio.wait(self._work)

    def order(self, word: str, job: Text2Video | Image2Video) -> Clip:
        """Take an order, and give its clip at once. The same word is the same order, however often it comes."""
        clip = self.clips.get(word)
        # One that came to nothing may be asked for again: whether that buys anything is for the journal to say, which knows the word.
        if clip is None or clip.state in {"failed", "unknown"}:
            clip = Clip(order=word, prompt=job.prompt or "", asked_at=time.time())
            self._show(clip)
            self._start(self._make(word, job))
        return clip

    async def changes(self) -> AsyncGenerator[Clip]:
        """All clips, oldest first, and from then on each that changes, until `hush`."""
        seen = 0
        while not self._hushed:
            news = self._news
            fresh = [clip for word, clip in self.clips.items() if self._changes[word] > seen]
            seen = self._count
            for clip in fresh:
                yield clip
            await news.wait()

    def hush(self) -> None:
        """End all `changes`: the server is about to."""
        self._hushed = True
        self._news.set()

    async def _make(self, word: str, job: Text2Video | Image2Video) -> None:
        try:
            handle = await self.kling.submit(job, dedupe=word)
        except KlingError as error:
            state = "unknown" if isinstance(error, SubmitOutcomeUnknown) else "failed"
            self._show(evolve(self.clips[word], state=state, note=words(error)))
            return
        await self._follow(word, handle)

    async def _follow(self, word: str, handle: TaskHandle[Any]) -> None:
        # Looking and fetching cost nothing, so they are repeated. A purchase never is: see `_make`.
        while True:
            try:
                async for snapshot in handle.updates():
                    if not snapshot.status.final:
                        state = "submitted" if snapshot.status is Status.SUBMITTED else "processing"
                        self._show(evolve(self.clips[word], state=state, note="", usual=handle.usual))
                if handle.status is Status.SUCCEED:
                    self._show(evolve(self.clips[word], state="saving", note=""))
                paths = await handle.save(self.folder)
            except KlingError as error:
                if not error.retryable:
                    self._show(evolve(self.clips[word], state="failed", note=words(error)))
                    return
                self._show(evolve(self.clips[word], note=f"{words(error)} Trying again."))
                await asyncio.sleep(self.pause)
            else:
                self._show(evolve(self.clips[word], state="ready", note="", files=tuple(path.name for path in paths)))
                return

    async def _go_on(self, rows: list[Creation]) -> None:
        try:
            found = {handle.ref.external_task_id: handle for handle in await self.kling.recover()}
            for row in rows:
                word = row.dedupe or ""
                # What is no longer unfinished lacks only its files.
                handle = found.get(row.key) or (await self.kling.reconcile(row.key) if row.state is State.SUCCEEDED else None)
                if handle is not None:
                    self._start(self._follow(word, handle))
                else:
                    self._show(_remembered(await self.journal.get(row.key), word, ()))
        except KlingError:
            _log.exception("what an earlier process has left cannot be taken up")

    def _show(self, clip: Clip) -> None:
        self._count += 1
        self.clips[clip.order] = clip
        self._changes[clip.order] = self._count
        self._news.set()
        self._news = asyncio.Event()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)


def words(error: KlingError) -> str:
    """What to tell a person who has asked for a clip."""
    match error:
        case SubmitOutcomeUnknown():
            return _unknown(error.external_task_id)
        case ContentPolicyError():
            said = f"The service does not make this: {error.message}."
        case AccountError():
            said = f"The account cannot pay: {error.message}."
        case ApiError():
            said = f"The service said no: {error.message}."
        case _:
            said = _sentence(str(error))
    return f"{said} Nothing was bought." if error.billed is False else said


def _unknown(key: str) -> str:
    return f"Nobody knows whether the service took this order, so it is not sent again. Look for {key} in the service's console."


def _sentence(text: str) -> str:
    plain = text.partition(" [kling1,")[0]  # without the reference of the task
    return f"{plain[:1].upper()}{plain[1:]}."


def _remembered(row: Creation, word: str, files: tuple[str, ...]) -> Clip:
    """The clip of a creation, as an earlier process has left it."""
    clip = Clip(order=word, prompt=json.loads(row.request).get("prompt", ""), asked_at=row.created_at)
    match row.state:
        case State.SUCCEEDED if files:
            return evolve(clip, state="ready", files=files)
        case State.FAILED:
            return evolve(clip, state="failed", note=_sentence(row.note))
        case State.REJECTED:
            return evolve(clip, state="failed", note=f"{_sentence(row.note)} Nothing was bought.")
        case State.WITHDRAWN | State.ABANDONED:
            return evolve(clip, state="failed", note="It was not sent. Nothing was bought.")
        case State.UNKNOWN:
            return evolve(clip, state="unknown", note=_unknown(row.key))
        case _:
            return evolve(clip, note="Looking what became of it.")
