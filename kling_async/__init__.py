"""The asyncio SDK for Kling video and image generation: typed jobs, awaitable tasks, nothing bought twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kling_async._lazy import offer as _offer
from kling_async._version import __version__

if TYPE_CHECKING:
    from kling_async._auth import ApiKey, Credentials, KeyPair
    from kling_async._containers import Expected
    from kling_async._pacing import Polling, Retry
    from kling_async._profile import Profile
    from kling_async.errors import (
        AccountError,
        ApiError,
        AuthenticationError,
        CallbackError,
        ConcurrencyLimitError,
        ConfigurationError,
        ContentPolicyError,
        DownloadError,
        InvalidJobError,
        InvalidRefError,
        InvalidRequestError,
        JournalError,
        KlingError,
        NotFoundError,
        PermissionDeniedError,
        ProtocolError,
        RateLimitError,
        ResultExpiredError,
        ResultMissingError,
        ServiceError,
        SubmitOutcomeUnknown,
        TaskError,
        TaskFailedError,
        TaskTimeoutError,
        TransportError,
        TransportTimeoutError,
    )
    from kling_async.jobs import (
        ALL_JOBS,
        CameraControl,
        DynamicMask,
        GenerateImage,
        Image2Video,
        Job,
        LipSync,
        MultiShot,
        Text2Video,
        VideoExtend,
        VirtualTryOn,
    )
    from kling_async.journal import Artifact, Creation, Journal, PostgresJournal
    from kling_async.models import Audio, Image, Snapshot, Status, TaskRef, Video
    from kling_async.observers import Anomaly, Exchange, Observer, Progress, Record, Saved, Settled, StatusChange, Waiting
    from kling_async.outcomes import Outcome
    from kling_async.session import KlingSession
    from kling_async.tasks import TaskHandle

__all__ = [
    "ALL_JOBS",
    "AccountError",
    "Anomaly",
    "ApiError",
    "ApiKey",
    "Artifact",
    "Audio",
    "AuthenticationError",
    "CallbackError",
    "CameraControl",
    "ConcurrencyLimitError",
    "ConfigurationError",
    "ContentPolicyError",
    "Creation",
    "Credentials",
    "DownloadError",
    "DynamicMask",
    "Exchange",
    "Expected",
    "GenerateImage",
    "Image",
    "Image2Video",
    "InvalidJobError",
    "InvalidRefError",
    "InvalidRequestError",
    "Job",
    "Journal",
    "JournalError",
    "KeyPair",
    "KlingError",
    "KlingSession",
    "LipSync",
    "MultiShot",
    "NotFoundError",
    "Observer",
    "Outcome",
    "PermissionDeniedError",
    "Polling",
    "PostgresJournal",
    "Profile",
    "Progress",
    "ProtocolError",
    "RateLimitError",
    "Record",
    "ResultExpiredError",
    "ResultMissingError",
    "Retry",
    "Saved",
    "ServiceError",
    "Settled",
    "Snapshot",
    "Status",
    "StatusChange",
    "SubmitOutcomeUnknown",
    "TaskError",
    "TaskFailedError",
    "TaskHandle",
    "TaskRef",
    "TaskTimeoutError",
    "Text2Video",
    "TransportError",
    "TransportTimeoutError",
    "Video",
    "VideoExtend",
    "VirtualTryOn",
    "Waiting",
    "__version__",
]

_HOMES = ("errors", "models", "jobs", "_auth", "_pacing", "_profile", "_containers", "observers", "journal", "tasks", "outcomes", "session")
"""Where the names come from, the light modules first: only the last one brings aiohttp."""

__getattr__, __dir__ = _offer(__name__, _HOMES)
