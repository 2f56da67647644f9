"""The gateway in the box: Kling's API on loopback, with faults by name and a log of the ground truth."""

from __future__ import annotations

from kling_async.emulator._faults import Fault
from kling_async.emulator._ledger import GroundTruth, SeenRequest, SentCallback
from kling_async.emulator._tasks import AcceptedTask
from kling_async.emulator.server import Emulator

__all__ = ["AcceptedTask", "Emulator", "Fault", "GroundTruth", "SeenRequest", "SentCallback"]
