"""Plain facts sorted by whose move is next, and the table from a service code to its class."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Self

from kling_async._fault import ConfigurationError, InvalidRefError, KlingError
from kling_async.models import TaskRef

__all__ = [
    "AccountError",
    "ApiError",
    "AuthenticationError",
    "CallbackError",
    "ConcurrencyLimitError",
    "ConfigurationError",
    "ContentPolicyError",
    "DownloadError",
    "InvalidJobError",
    "InvalidRefError",
    "InvalidRequestError",
    "JournalError",
    "KlingError",
    "NotFoundError",
    "PermissionDeniedError",
    "ProtocolError",
    "RateLimitError",
    "ResultExpiredError",
    "ResultMissingError",
    "ServiceError",
    "SubmitOutcomeUnknown",
    "TaskError",
    "TaskFailedError",
    "TaskTimeoutError",
    "TransportError",
    "TransportTimeoutError",
    "api_error_class",
]


class InvalidJobError(KlingError, ValueError):
    """The job is wrong; nothing was sent. `field` is the one to change, `rule` what it must obey."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}")
        self.field = field
        self.rule = rule


class ApiError(KlingError):
    """The service said no."""

    ref: TaskRef | None = None
    """The task that was asked about, when the refusal ended a wait."""

    def __init__(
        self,
        message: str,
        *,
        code: int | str | None = None,
        request_id: str | None = None,
        http_status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        facts = (f"code {code}" if code not in {None, ""} else "", f"HTTP {http_status}" if http_status else "")
        suffix = ", ".join(fact for fact in (*facts, f"request {request_id}" if request_id else "") if fact)
        super().__init__(f"{message or 'the service gave no reason'}{f' ({suffix})' if suffix else ''}")
        self.code = code
        """The service's code: a number, a gateway's word, or `None`."""
        self.message = message
        self.request_id = request_id
        self.http_status = http_status
        self.retry_after = retry_after
        """Seconds the server asked to wait, or `None`."""


class AuthenticationError(ApiError):
    """The key is missing, wrong or expired (1000 to 1004)."""


class PermissionDeniedError(ApiError):
    """The key is fine, but may not do this (1103, 1304)."""


class AccountError(ApiError):
    """The account cannot pay or is blocked (1100 to 1102)."""


class NotFoundError(ApiError):
    """No such task, model or route (1203)."""


class InvalidRequestError(ApiError):
    """The service found the request wrong (1200 to 1202)."""


class ContentPolicyError(ApiError):
    """The prompt or picture was refused by policy (1300, 1301); the same again is refused again."""


class RateLimitError(ApiError):
    """Too many requests (1302, or a bare 429)."""

    retryable = True


class ConcurrencyLimitError(ApiError):
    """All slots of the account are taken (1303); one frees when a task ends."""

    retryable = True


class ServiceError(ApiError):
    """The service or a gateway broke (5xx)."""

    retryable = True


class TransportError(KlingError):
    """The network failed; provably nothing was bought."""

    retryable = True


class TransportTimeoutError(TransportError, TimeoutError):
    """The network was too slow, or the time was up before the service accepted; provably nothing was bought."""

    retry_after: float | None = None
    """Seconds the server asked to wait, when that is longer than the caller had."""


class ProtocolError(KlingError):
    """The reply is not what the API says. `path` is where in it, `excerpt` its first characters."""

    def __init__(self, message: str, *, path: str = "", excerpt: str = "") -> None:
        where = f" at {path}" if path else ""
        super().__init__(f"{message}{where}{f': {excerpt!r}' if excerpt else ''}")
        self.path = path
        self.excerpt = excerpt


class SubmitOutcomeUnknown(KlingError):  # noqa: N818  the public name: it is no failure, it is not knowing
    """A paid request may or may not have been accepted. Do not simply submit again: that may buy twice.

    `await error.reconcile()` asks the service, where it can be asked. Else look for `external_task_id` in the
    service's console, and tell the session what you found with `KlingSession.adopt`.
    On purpose no `OSError`, `TimeoutError` or `aiohttp.ClientError`: a retry wrapper must not buy twice.
    """

    billed = None

    def __init__(self, message: str, *, external_task_id: str, job: Any, cause: str) -> None:
        super().__init__(f"{message} (external_task_id {external_task_id})")
        self.external_task_id = external_task_id
        self.job = job
        """The `Job` that was submitted; `None` when only the journal remembers it."""
        self.cause = cause
        """What went wrong, as one word of the failure table, such as `disconnected` or `http-502`."""
        self._ask: Callable[[str], Awaitable[Any]] | None = None

    async def reconcile(self) -> Any:
        """The task's `TaskHandle` if one was found, or `None` while nobody can tell; waits for a request still under way.

        Raises:
            ConfigurationError: the session that raised this error is not at hand; use its `reconcile`.
        """
        if self._ask is None:
            msg = f"this error came from elsewhere: call reconcile({self.external_task_id!r}) of a session with the same journal"
            raise ConfigurationError(msg)
        return await self._ask(self.external_task_id)

    def asking(self, ask: Callable[[str], Awaitable[Any]]) -> Self:
        """The same error, able to `reconcile`."""
        self._ask = ask
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Without the session, which does not travel, and without the secrets of the job: tokens and signatures in its links, `extra`."""
        rebuild, (cls, message, facts) = super().__reduce__()[:2]
        return rebuild, (cls, message, {**facts, "_ask": None, "job": self.job and self.job.unsigned()})


class TaskError(KlingError):
    """A task exists, and its result is not to be had (yet)."""

    billed: bool | None = True

    def __init__(self, message: str, *, ref: TaskRef) -> None:
        super().__init__(f"{message} [{ref}]")
        self.ref = ref


class TaskFailedError(TaskError):
    """The service gave up on the task. `reason` is its `task_status_msg`."""

    billed = None

    def __init__(self, reason: str, *, ref: TaskRef) -> None:
        super().__init__(f"the task failed: {reason or 'no reason given'}", ref=ref)
        self.reason = reason


class TaskTimeoutError(TaskError, TimeoutError):
    """The waiting ran out of time; the task goes on, and so can the waiting."""

    retryable = True


class ResultMissingError(TaskError):
    """The task succeeded and yet brings nothing."""


class DownloadError(KlingError):
    """A result could not be fetched or written. `url` comes without its query, which holds a signature."""

    retryable = True
    billed = True

    def __init__(self, message: str, *, url: str, ref: TaskRef | None = None) -> None:
        bare = url.partition("#")[0].partition("?")[0]
        super().__init__(f"{message}: {bare}{f' [{ref}]' if ref else ''}")
        self.url = bare
        self.ref = ref


class ResultExpiredError(DownloadError):
    """The link is dead, also after asking for a fresh one. The service deletes results after 30 days."""

    retryable = False

    def __init__(self, message: str, *, url: str, ref: TaskRef | None = None, age: float | None = None) -> None:
        suffix = "" if age is None else f" for a task made {age / 86400:.1f} days ago"
        super().__init__(f"{message}{suffix}", url=url, ref=ref)
        self.age = age
        """Seconds since the task was made; `None` when that is not known."""


class JournalError(KlingError):
    """The journal cannot be read or written. Before a paid request this means that nothing was sent."""

    ref: TaskRef | None = None
    """The task that was accepted and could not be recorded; it runs, and nothing else holds its id."""


class CallbackError(KlingError):
    """A callback post is not one."""


_BY_CODE: Final[dict[int | str, type[ApiError]]] = {
    # The official table, api.md 8.1.
    1000: AuthenticationError,
    1001: AuthenticationError,
    1002: AuthenticationError,
    1003: AuthenticationError,
    1004: AuthenticationError,
    1100: AccountError,
    1101: AccountError,
    1102: AccountError,
    1103: PermissionDeniedError,
    1200: InvalidRequestError,
    1201: InvalidRequestError,
    1202: InvalidRequestError,
    1203: NotFoundError,
    1300: ContentPolicyError,
    1301: ContentPolicyError,
    1302: RateLimitError,
    1303: ConcurrencyLimitError,
    1304: PermissionDeniedError,
    5000: ServiceError,
    5001: ServiceError,
    5002: ServiceError,
    # Gateways' words, api.md 8.3.
    "invalid_request": InvalidRequestError,
    "invalid_api_platform": InvalidRequestError,
    "invalid_relay_mode": InvalidRequestError,
    "model_mapping_failed": InvalidRequestError,
    "model_not_found": NotFoundError,
    "model_price_error": InvalidRequestError,
    "provider_not_found": NotFoundError,
    "quota_not_enough": AccountError,
    "task_not_exist": NotFoundError,
}

_BY_STATUS: Final[dict[int, type[ApiError]]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    402: AccountError,
    403: PermissionDeniedError,
    404: NotFoundError,
    405: InvalidRequestError,
    410: NotFoundError,
    413: InvalidRequestError,
    415: InvalidRequestError,
    422: InvalidRequestError,
    429: RateLimitError,
}

_FULL: Final = "parallel task over resource pack limit"
"""The text of 1303; some gateways keep it and lose the code (`reliability.md` 2.3)."""


def api_error_class(code: int | str | None, http_status: int, message: str = "") -> type[ApiError]:
    """The class for a refusal: by its code, by the text of 1303, by its HTTP status, in that order."""
    if code is not None and code in _BY_CODE:
        return _BY_CODE[code]
    if _FULL in message.lower():
        return ConcurrencyLimitError
    if http_status in _BY_STATUS:
        return _BY_STATUS[http_status]
    return ServiceError if http_status >= 500 else ApiError  # noqa: PLR2004  the 5xx family
