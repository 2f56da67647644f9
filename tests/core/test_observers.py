from __future__ import annotations

import logging

import attrs
import pytest

from kling_async.models import Status, TaskRef
from kling_async.observers import Anomaly, Audience, Exchange, Record, Settled, StatusChange, Waiting, log_records

REF = TaskRef(origin="https://gateway.example", action="videos", action2="text2video", task_id="t1", external_task_id="ka-1")
RECORDS: list[tuple[Record, int]] = [
    (Exchange(method="POST", route="videos/text2video", subject="ka-1", paid=True, seconds=0.25, http_status=200), logging.DEBUG),
    (Exchange(method="GET", route="videos/text2video", subject="t1", paid=False, seconds=20.0, cause="timeout"), logging.DEBUG),
    (Waiting(why="slot", external_task_id="ka-1"), logging.DEBUG),
    (Waiting(why="retry", external_task_id="ka-1", seconds=2.0), logging.DEBUG),
    (Settled(external_task_id="ka-1", route="videos/text2video", how="accepted", seconds=1.0, ref=REF), logging.DEBUG),
    (Settled(external_task_id="ka-1", route="videos/text2video", how="found", seconds=9.0, ref=REF), logging.INFO),
    (Settled(external_task_id="ka-1", route="videos/text2video", how="rejected", seconds=1.0, error="AccountError"), logging.DEBUG),
    (StatusChange(ref=REF, before=None, after=Status.SUBMITTED), logging.INFO),
    (StatusChange(ref=REF, before=Status.SUBMITTED, after=Status.SUCCEED), logging.INFO),
    (Anomaly(what="orphan", detail="accepted after its caller had gone", ref=REF), logging.WARNING),
    (Anomaly(what="outcome-unknown", detail="ka-1: timeout"), logging.WARNING),
]


@pytest.mark.parametrize("record", [record for record, _ in RECORDS], ids=repr)
def test_records_are_facts(record: Record) -> None:
    """Nothing in a record can be changed, so one observer cannot mislead the next."""
    for attribute in attrs.fields(type(record)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(record, attribute.name, None)
    assert record == attrs.evolve(record)


@pytest.mark.parametrize(("record", "level"), RECORDS)
def test_what_is_logged(record: Record, level: int, caplog: pytest.LogCaptureFixture) -> None:
    """Anomalies are warnings, changes and duplicates avoided are information, the rest is for debugging; each says whose it is."""
    caplog.set_level(logging.DEBUG, "kling_async")
    log_records(record)
    (line,) = caplog.records
    assert (line.name, line.levelno) == ("kling_async", level)
    assert "ka-1" in line.getMessage() or "t1" in line.getMessage()


def test_what_came_of_an_exchange_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The line tells the status of the reply, or why there was none."""
    caplog.set_level(logging.DEBUG, "kling_async")
    for record, _ in RECORDS[:2]:
        log_records(record)
    assert ["200" in line.getMessage() for line in caplog.records] == [True, False]
    assert ["timeout" in line.getMessage() for line in caplog.records] == [False, True]


def test_the_default_is_to_log(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever gives no observers has log records; whoever does has none of them."""
    caplog.set_level(logging.DEBUG, "kling_async")
    told: list[Record] = []
    Audience([told.append]).tell(RECORDS[0][0])
    assert (told, caplog.records) == ([RECORDS[0][0]], [])
    Audience(()).tell(RECORDS[0][0])
    assert len(caplog.records) == 1


def test_an_observer_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """It hurts nobody: the others are told, in order, and what it raised is logged (W8)."""
    told: list[tuple[str, Record]] = []

    def broken(_record: Record) -> None:
        raise KeyError("a hook of the user's")

    audience = Audience(iter([lambda record: told.append(("first", record)), broken, lambda record: told.append(("last", record))]))
    for record, _ in RECORDS:
        audience.tell(record)
    assert told == [(name, record) for record, _ in RECORDS for name in ("first", "last")]
    assert [line.exc_info is not None for line in caplog.records] == [True] * len(RECORDS)
