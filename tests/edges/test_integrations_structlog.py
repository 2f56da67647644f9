from __future__ import annotations

import logging
from pathlib import Path
from typing import get_args

import pytest
import structlog
from structlog.testing import LogCapture, capture_logs

from journals import ROUTE, session
from kling_async import observers
from kling_async.emulator import Emulator
from kling_async.integrations.structlog import log_records
from kling_async.jobs import Text2Video
from kling_async.models import Status, TaskRef
from kling_async.observers import Anomaly, Exchange, Progress, Record, Saved, Settled, StatusChange, Waiting
from kling_async.testing import leaked

pytestmark = pytest.mark.usefixtures("nothing_is_left")

CANARY = "c4n4ry"
REF = TaskRef(origin="https://gateway.example", action="videos", action2="text2video", task_id="t1", external_task_id="ka-1")
RECORDS: list[Record] = [
    Exchange(method="POST", route=ROUTE, subject="ka-1", paid=True, seconds=0.25, http_status=200),
    StatusChange(ref=REF, before=None, after=Status.SUBMITTED),
    Waiting(why="slot", external_task_id="ka-1"),
    Settled(external_task_id="ka-1", route=ROUTE, how="accepted", seconds=1.0, ref=REF),
    Settled(external_task_id="ka-1", route=ROUTE, how="reused", seconds=1.0, ref=REF),
    Settled(external_task_id="ka-1", route=ROUTE, how="found", seconds=9.0, ref=REF),
    Settled(external_task_id="ka-1", route=ROUTE, how="rejected", seconds=1.0, error="AccountError"),
    Anomaly(what="orphan", detail="accepted after its caller had gone", ref=REF),
    Progress(name="t1", received=1, total=None, ref=REF),
    Saved(path=Path("out") / "t1.mp4", size=3, sha256="abc", verified="length", ref=REF, seconds=2.0),
]


@pytest.mark.parametrize("record", RECORDS, ids=repr)
async def test_the_same_levels(record: Record, caplog: pytest.LogCaptureFixture) -> None:
    """Each kind of record is an event of the level that the default observer gives it."""
    caplog.set_level(logging.DEBUG, "kling_async")
    observers.log_records(record)
    with capture_logs() as logged:
        log_records(record)
    assert [entry["log_level"].upper() for entry in logged] == [line.levelname for line in caplog.records]
    assert {type(each) for each in RECORDS} == set(get_args(Record))


async def test_fields() -> None:
    """A record's fields are the event's; its reference is taken apart, and what is not known is left out."""
    with capture_logs() as logged:
        log_records(RECORDS[3])
        log_records(RECORDS[-1])
    whose = {"task_id": "t1", "route": ROUTE, "external_task_id": "ka-1", "ref": str(REF)}
    assert logged == [
        {"event": "settled", "log_level": "debug", "how": "accepted", "seconds": 1.0, **whose},
        {
            "event": "saved",
            "log_level": "info",
            "path": str(Path("out") / "t1.mp4"),
            "size": 3,
            "sha256": "abc",
            "verified": "length",
            "seconds": 2.0,
            **whose,
        },
    ]


async def test_a_life(tmp_path: Path) -> None:
    """A generation is told from the request to the file, with what the caller has bound, and without a secret."""
    capture = LogCapture()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, capture])
    try:
        async with Emulator(durations=100, seed=1) as emulator, session(emulator, observers=[log_records]) as kling:
            with structlog.contextvars.bound_contextvars(request="r-17"):
                handle = await kling.submit(Text2Video(prompt=CANARY))
            (video,) = await handle
            await handle.save(tmp_path)
    finally:
        structlog.reset_defaults()
    logged = capture.entries
    told = [entry["event"] for entry in logged]
    assert told[:3] == ["exchange", "settled", "status_change"]
    assert told[-1] == "saved"
    assert [entry["request"] for entry in logged[:3]] == ["r-17"] * 3
    assert {entry["task_id"] for entry in logged if entry["event"] == "status_change"} == {handle.task_id}
    assert leaked([CANARY, emulator.api_key, video.url.partition("?")[2]], *map(repr, logged)) == []
