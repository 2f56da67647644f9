"""What tests of a watch share: what looks may show, and watches that look."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from kling_async._pacing import Pace, Polling
from kling_async._verdict import Failure
from kling_async._watch import News, Seen, Watch
from kling_async._wire import Refusal
from kling_async.errors import (
    ProtocolError,
)
from kling_async.models import Snapshot, Status, TaskRef, Video

REF = TaskRef(origin="https://gateway.example", action="videos", action2="text2video", task_id="8800")
PACE = Pace(first=10.0, interval=5.0, max_interval=15.0)
VIDEO = Video(id="1", url="https://files.example/v.mp4?sign=a")
SUBMITTED = Snapshot(task_id="8800", status=Status.SUBMITTED, raw_status="submitted")
PROCESSING = evolve(SUBMITTED, status=Status.PROCESSING, raw_status="processing")
SUCCEEDED = evolve(SUBMITTED, status=Status.SUCCEED, raw_status="succeed", videos=(VIDEO,))
EMPTY = evolve(SUCCEEDED, videos=())
FAILED = evolve(SUBMITTED, status=Status.FAILED, raw_status="failed", message="too dark")
DROPPED = Failure(cause="disconnected", sent=False)


def refusal(status: int, code: int | None = None, wait: float | None = None) -> Refusal:
    """A refused look."""
    return Refusal(code=code, message="no", request_id=None, http_status=status, retry_after=wait, readable=True)


GONE = refusal(404, 1203)
SHUT = refusal(401, 1000)
NOISE: tuple[Seen, ...] = (
    DROPPED,
    Failure(cause="timeout", sent=False, slow=True),
    ProtocolError("the reply is not JSON"),
    *map(refusal, (408, 425, 429, 500, 502, 503, 504, 524)),
    refusal(200, 5000),
)


def watch(**polling: Any) -> Watch:
    """A task that was created at time 100."""
    made = Watch(ref=REF, pace=PACE, polling=Polling(**polling), snapshot=SUBMITTED)
    made.begin(100.0, 0.5)
    return made


def attached(**polling: Any) -> Watch:
    """A task of which nothing is known yet."""
    return Watch(ref=REF, pace=PACE, polling=Polling(**polling))


def see(task: Watch, seen: Seen, now: float = 110.0, **rest: Any) -> News:
    """Look, with the middle of the dice."""
    return task.note(seen, now=now, **{"roll": 0.5, **rest})
