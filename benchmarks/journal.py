"""How long the journal's words take among a million creations: `python benchmarks/journal.py`, times in milliseconds (row J9)."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from attrs import evolve

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from journals import ROW, filled
from kling_async.journal import Journal, State

MANY: Final = 1_000_000
UNFINISHED: Final = 1_000


async def main() -> None:
    """Fill a journal, then time each word once, as a process that has just started would meet it."""
    with tempfile.TemporaryDirectory() as directory:
        async with Journal(Path(directory) / "journal.db") as journal:
            await filled(journal, MANY, unfinished=UNFINISHED)
            row = evolve(ROW, key="ka-new", account="account-3", dedupe="new", created_at=time.time())
            words: dict[str, Callable[[], Awaitable[object]]] = {
                "intend": lambda: journal.intend(row),
                "intend, known by dedupe": lambda: journal.intend(evolve(row, key="ka-other")),
                "send": lambda: journal.send("ka-new", row.owner),
                "accept": lambda: journal.accept("ka-new", "task-new"),
                "finish": lambda: journal.finish("account-3", "task-new", State.SUCCEEDED),
                f"open_rows ({UNFINISHED // 10} of {MANY:,})": lambda: journal.open_rows("account-3", ROW.origin),
                "rows (the latest 1,000)": journal.rows,
                "prune (500)": lambda: journal.prune(time.time() - 499.5),
                "backup": lambda: journal.backup(Path(directory) / "copy.db"),
            }
            for name, word in words.items():
                begun = time.perf_counter()
                await word()
                print(f"{name:<32}{(time.perf_counter() - begun) * 1000:>10.2f}")


if __name__ == "__main__":
    asyncio.run(main())
