from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import evolve

from kling_async.lists import shown
from kling_async.models import Status
from looks import PROCESSING, attached

RESULT = {"videos": [{"id": "v", "url": "https://files.example/v.mp4", "duration": "5"}]}
MILLIS = 1774805076166
TIME = datetime.fromtimestamp(MILLIS / 1000, UTC)


def row(**facts: Any) -> dict[str, Any]:
    """A row about the task of `looks`."""
    return {"task_id": "8800", "task_status": "succeed", "task_result": RESULT, "updated_at": MILLIS, **facts}


@pytest.mark.parametrize(
    "facts",
    [
        {"task_id": "8801"},
        {"task_id": ""},
        {"task_id": None, "id": "8800"},
        {"task_result": None},
        {"task_result": {"videos": [{"id": "1"}]}},
        {"task_info": {"external_task_id": "theirs"}},
        {"updated_at": MILLIS - 1},
        {"updated_at": None},
    ],
)
def test_rows_that_are_not_taken(facts: dict[str, Any]) -> None:
    """Another task's row, a success without a result, another's key, or a state older than the one known: the task itself must tell."""
    watch = attached()
    assert shown(row(), watch) is not None
    watch.ref = evolve(watch.ref, external_task_id="ours")
    watch.snapshot = evolve(PROCESSING, updated_at=TIME)
    assert shown(row(), watch) is not None
    assert shown(row(**facts), watch) is None


def test_a_row_is_read_as_a_reply_is() -> None:
    """Other words for the states, and numbers as ids, are understood in lists too."""
    seen = shown(row(task_id=8800, task_status="SUCCEEDED"), attached())
    assert seen is not None
    assert (seen.task_id, seen.status, seen.raw) == ("8800", Status.SUCCEED, {"data": row(task_id=8800, task_status="SUCCEEDED")})
