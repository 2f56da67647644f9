"""What a session does with the entries of results: files, a writer, or a stream of bytes."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterable, Sequence
from pathlib import Path
from typing import Any

from kling_async._binding import Binding
from kling_async._containers import Expected
from kling_async._watch import entries_of
from kling_async.files import MAX_SIZE, AsyncWriter, Entry, Files, Refresh
from kling_async.models import TaskRef
from kling_async.observers import Saved
from kling_async.tasks import TaskHandle

__all__ = ["Saving"]


class Saving:
    """For whoever has a saver, and can attach to a task."""

    _binding: Binding
    _files: Files

    def attach(self, ref: TaskRef | str) -> TaskHandle[tuple[Any, ...]]:
        """A handle for a task made earlier or elsewhere."""
        raise NotImplementedError

    async def save(
        self,
        entries: Iterable[Entry],
        directory: str | os.PathLike[str],
        *,
        ref: TaskRef | str | None = None,
        overwrite: bool = False,
        expected: Sequence[Expected | None] = (),
        max_size: int = MAX_SIZE,
    ) -> tuple[Path, ...]:
        """Download entries of results into `directory`, each atomically; gives the paths in order.

        A file that is there already is left alone and counts as saved, unless `overwrite`. A download that
        broke off in an earlier try goes on where it stopped, when the file host can tell that nothing changed.
        Size and SHA-256 of each file are told to the observers (`Saved`).

        Args:
            entries: of any task, or of several.
            directory: made when it does not exist.
            ref: the task that all of them belong to: their files are named after it, and links that have
                expired are asked for afresh, once, as `TaskHandle.save` does.
            overwrite: whether a file that is there already is replaced.
            expected: what each file must be, in the order of `entries`.
            max_size: bytes that a file may have.

        Raises:
            DownloadError: one could not be fetched or written, or is not what was expected.
            ResultExpiredError: its link is dead.
        """
        self._binding.check()
        known, refresh = self._renewing(ref)
        return await self._files.save(
            entries, directory, ref=known, overwrite=overwrite, refresh=refresh, expected=expected, max_size=max_size
        )

    def stream(self, entry: Entry, *, ref: TaskRef | str | None = None, max_size: int = MAX_SIZE) -> AsyncGenerator[bytes]:
        """The bytes of an entry: `async for piece in kling.stream(entry)`, never more in memory than a few MiB.

        When the iteration ends without an error the file was whole; until then it may yet turn out not to be.
        What is not read is not fetched either. Leave early with `contextlib.aclosing`, or the connection
        stays open until the iterator is collected. `ref` and `max_size` as for `save`.

        Raises:
            DownloadError: it could not be fetched, or is not whole: what was given is void.
            ResultExpiredError: its link is dead.
        """
        self._binding.check()
        known, refresh = self._renewing(ref)
        return self._files.stream(entry, ref=known, refresh=refresh, max_size=max_size)

    async def copy(self, entry: Entry, writer: AsyncWriter, *, ref: TaskRef | str | None = None, max_size: int = MAX_SIZE) -> Saved:
        """Write the bytes of an entry into anything with an `async write(bytes)`; gives its size and SHA-256. As `stream` else.

        Raises:
            DownloadError: it could not be fetched, or is not whole: what was written is void.
            ResultExpiredError: its link is dead.
        """
        self._binding.check()
        known, refresh = self._renewing(ref)
        return await self._files.copy(entry, writer, ref=known, refresh=refresh, max_size=max_size)

    def _renewing(self, ref: TaskRef | str | None) -> tuple[TaskRef | None, Refresh | None]:
        if ref is None:
            return None, None
        handle = self.attach(ref)

        async def refresh() -> tuple[Entry, ...]:
            return entries_of(await handle.refresh(), handle.ref.action)

        return handle.ref, refresh
