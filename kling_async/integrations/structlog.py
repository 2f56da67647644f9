"""structlog: `KlingSession(observers=[log_records])` logs records as events with fields. Extra `structlog`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

import attrs
import structlog

from kling_async.models import TaskRef
from kling_async.observers import Anomaly, Exchange, Progress, Record, Saved, Settled, StatusChange, Waiting

__all__ = ["log_records"]

_log: Final[Any] = structlog.get_logger("kling_async")  # a proxy: what is configured later counts

_EVENTS: Final[dict[type[Record], str]] = {
    Exchange: "exchange",
    StatusChange: "status_change",
    Waiting: "waiting",
    Settled: "settled",
    Anomaly: "anomaly",
    Progress: "progress",
    Saved: "saved",
}


def log_records(record: Record) -> None:
    """An observer that logs each record: its kind as the event, its fields as those of the event.

    Levels are those of the default observer: anomalies are warnings; changes, files and what was not bought twice are for
    information; the rest is for debugging. Events are `exchange`, `status_change`, `waiting`, `settled`, `anomaly`, `progress`
    and `saved`; a record's `ref` becomes `task_id`, `route`, `external_task_id` and `ref`, the text to store or log.
    """
    _log.log(_level_of(record), _EVENTS[type(record)], **_fields_of(record))


def _level_of(record: Record) -> int:
    match record:
        case Anomaly():
            return logging.WARNING
        case StatusChange() | Saved() | Settled(how="reused" | "found"):
            return logging.INFO
        case _:
            return logging.DEBUG


def _fields_of(record: Record) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for attribute in attrs.fields(type(record)):
        match getattr(record, attribute.name):
            case None:
                pass
            case TaskRef() as ref:
                fields |= {"task_id": ref.task_id, "route": ref.route, "external_task_id": ref.external_task_id, "ref": str(ref)}
            case Path() as path:
                fields[attribute.name] = str(path)
            case value:
                fields[attribute.name] = value
    return fields
