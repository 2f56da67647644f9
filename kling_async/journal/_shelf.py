"""The book of creations in memory: what `Tables` keeps, but for the history, which nobody could read after the process.

Dictionaries, and no database without a file: asking one costs tens of times what the question does.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

from attrs import define, evolve, field

from kling_async._fault import KlingError
from kling_async.journal._database import Item
from kling_async.journal._rows import Artifact, Creation, Row, State, said

__all__ = ["MemoryDatabase", "Shelf"]


@define(eq=False, repr=False)
class Shelf:
    """All of it; `Tables` says what the words mean."""

    _rows: dict[str, Creation] = field(factory=dict, init=False)
    _words: dict[tuple[str, str], str] = field(factory=dict, init=False)
    _tasks: dict[tuple[str, str], tuple[str, ...]] = field(factory=dict, init=False)
    """The keys of the creations that came to a task."""
    _unfinished: dict[str, None] = field(factory=dict, init=False)
    _files: dict[str, dict[int, Artifact]] = field(factory=dict, init=False)
    _learnt: dict[tuple[str, str], str] = field(factory=dict, init=False)
    """What was learnt last comes last."""

    def find(self, key: str) -> Creation | None:
        return self._rows.get(key)

    standing = find

    def named(self, account: str, word: str) -> Creation | None:
        key = self._words.get((account, word))
        return None if key is None else self._rows[key]

    def of_task(self, account: str, task_id: str) -> list[Creation]:
        return [self._rows[key] for key in self._tasks.get((account, task_id), ())]

    def unfinished(self, account: str, origin: str) -> list[Creation]:
        rows = [row for key in self._unfinished if (row := self._rows[key]).account == account and row.origin == origin]
        return sorted(rows, key=_born)

    def latest(self, most: int) -> list[Creation]:
        return sorted(self._rows.values(), key=_born, reverse=True)[:most]

    def add(self, creation: Creation) -> bool:
        if creation.key in self._rows or (creation.account, creation.dedupe) in self._words:
            return False
        self._set(creation)
        return True

    def change(self, key: str, **facts: Any) -> None:
        self._set(evolve(self._rows[key], **facts))

    def put(self, row: Row, state: State, note: str, **facts: Any) -> None:
        self.change(row.key, state=state, note=said(note), updated_at=time.time(), **facts)

    def remark(self, row: Row, note: str) -> None:
        pass

    def keep(self, artifact: Artifact) -> None:
        self._files.setdefault(artifact.key, {})[artifact.idx] = artifact

    def kept(self, key: str) -> list[Artifact]:
        return [file for _, file in sorted(self._files.get(key, {}).items())]

    def learn(self, origin: str, kind: str, learnt: str) -> None:
        self._learnt.pop((origin, kind), None)
        self._learnt[origin, kind] = learnt

    def learnt(self, origin: str, most: int) -> dict[str, str]:
        return dict(islice(((kind, learnt) for (of, kind), learnt in reversed(self._learnt.items()) if of == origin), most))

    def prune(self, limit: float, most: int) -> int:
        old = list(islice((row for row in self._rows.values() if row.state.final and row.updated_at < limit), most))
        for row in old:
            del self._rows[row.key]
            self._files.pop(row.key, None)
            if row.dedupe is not None:
                del self._words[row.account, row.dedupe]
            if row.task_id is not None:
                place = row.account, row.task_id
                self._tasks[place] = tuple(key for key in self._tasks[place] if key != row.key)
                if not self._tasks[place]:
                    del self._tasks[place]
        return len(old)

    def _set(self, row: Creation) -> None:
        if row.dedupe is not None:
            self._words[row.account, row.dedupe] = row.key
        if row.task_id is not None and row.key not in (keys := self._tasks.get((row.account, row.task_id), ())):
            self._tasks[row.account, row.task_id] = (*keys, row.key)
        if row.state.final:
            self._unfinished.pop(row.key, None)
        else:
            self._unfinished[row.key] = None
        self._rows[row.key] = row


def _born(row: Creation) -> float:
    return row.created_at


@define(eq=False)
class MemoryDatabase:
    """No database at all: works are done on the shelf, at once."""

    patience: float = 0.0
    lasting: bool = field(default=False, init=False)
    beat: None = field(default=None, init=False)
    shelf: Shelf = field(factory=Shelf, init=False)

    def commit(self, batch: list[Item]) -> None:
        """Do the works."""
        for item in batch:
            try:
                item.result = item.work(self.shelf)
            except KlingError as error:
                item.error = error

    def close(self) -> None:
        """Forget it all."""
        self.shelf = Shelf()
