"""What the shell is told: one number for whose move is next. Help and documentation are made from here."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from kling_async._fault import ConfigurationError, KlingError
from kling_async.errors import (
    AccountError,
    ApiError,
    AuthenticationError,
    ContentPolicyError,
    DownloadError,
    InvalidJobError,
    InvalidRequestError,
    JournalError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    SubmitOutcomeUnknown,
    TaskError,
    TaskTimeoutError,
    TransportError,
)

__all__ = ["MEANINGS", "Exit", "exit_of"]


class Exit(IntEnum):
    """Exit codes; 70 and 130 are what other programs use for the same."""

    OK = 0
    TASK_FAILED = 1
    WRONG = 2
    NO_ACCESS = 3
    TIMEOUT = 4
    SERVICE = 5
    UNKNOWN = 6
    DEFECT = 70
    INTERRUPTED = 130


MEANINGS: Final[Mapping[Exit, str]] = {
    Exit.OK: "Done.",
    Exit.TASK_FAILED: "The task failed, or brought nothing.",
    Exit.WRONG: "The command, the setup or the job is wrong; nothing was bought.",
    Exit.NO_ACCESS: "The key is wrong, may not do this, or its account cannot pay.",
    Exit.TIMEOUT: "Time ran out; the task goes on, and how to wait again is printed.",
    Exit.SERVICE: "The network, the gateway or the file host failed; try again later.",
    Exit.UNKNOWN: "Unknown whether a paid request was accepted; its key is printed.",
    Exit.DEFECT: "A defect in this program; please report it.",
    Exit.INTERRUPTED: "Ctrl-C; tasks go on, and how to wait for them again is printed.",
}
"""Of several tasks, the first that did not end well decides."""

_BY_CLASS: Final[tuple[tuple[type[KlingError], Exit], ...]] = (
    (SubmitOutcomeUnknown, Exit.UNKNOWN),
    (TaskTimeoutError, Exit.TIMEOUT),
    (TaskError, Exit.TASK_FAILED),
    (AuthenticationError, Exit.NO_ACCESS),
    (PermissionDeniedError, Exit.NO_ACCESS),
    (AccountError, Exit.NO_ACCESS),
    (ConfigurationError, Exit.WRONG),
    (JournalError, Exit.WRONG),
    (InvalidJobError, Exit.WRONG),
    (InvalidRequestError, Exit.WRONG),
    (ContentPolicyError, Exit.WRONG),
    (NotFoundError, Exit.WRONG),
    (ApiError, Exit.SERVICE),
    (TransportError, Exit.SERVICE),
    (ProtocolError, Exit.SERVICE),
    (DownloadError, Exit.SERVICE),
)
"""The first class that fits decides."""


def exit_of(error: KlingError) -> Exit:
    """The exit code for an error that ended the work."""
    return next((code for kind, code in _BY_CLASS if isinstance(error, kind)), Exit.DEFECT)
