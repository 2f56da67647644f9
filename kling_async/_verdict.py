"""May a paid request be sent again? The tables of that decision, as data; pessimistic where nothing is known.

There are three outcomes of a paid request: accepted, provably not accepted, unknown. Only the second
may be sent again. `reliability.md` 2.2 and 2.3 are the source of every row.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, assert_never

from attrs import frozen

from kling_async._fault import KlingError
from kling_async._profile import Profile
from kling_async._wire import Blank, Refusal
from kling_async.errors import (
    ConcurrencyLimitError,
    ProtocolError,
    TransportError,
    TransportTimeoutError,
)
from kling_async.models import Snapshot

__all__ = ["MISTIMED", "Accepted", "Failure", "Move", "Rejected", "Unknown", "Verdict", "judge"]


class Move(Enum):
    """What may follow a request that was provably not accepted."""

    GIVE_UP = "give up"
    """The same request would be refused again."""
    AGAIN = "again"
    """Nothing reached the service: send it again soon."""
    LATER = "later"
    """The service is full or was asked too fast: send it again after a longer pause."""
    RESIGN = "re-sign"
    """The token's time was wrong: sign a new one and send once more."""
    ONCE = "once"
    """Send it once more, no oftener."""


@frozen(kw_only=True)
class Failure:
    """An exchange that brought no complete reply."""

    cause: str
    """One word of the failure table, such as `dns`, `connect`, `certificate`, `disconnected`, `timeout`."""
    sent: bool
    """Whether a byte of the request may have left this machine (`reliability.md` 2.1)."""
    slow: bool = False
    """Whether time ran out, rather than something breaking."""
    final: bool = False
    """Whether trying again is pointless, as with a bad certificate."""

    def error(self) -> TransportError:
        """The failure as an exception, for a request that bought nothing."""
        kind = TransportTimeoutError if self.slow else TransportError
        return kind(f"no reply from the gateway: {self.cause}")


@frozen(kw_only=True)
class Accepted:
    """The task exists."""

    snapshot: Snapshot


@frozen(kw_only=True)
class Rejected:
    """Provably no task came of it."""

    move: Move
    error: KlingError


@frozen(kw_only=True)
class Unknown:
    """A task may exist. `cause` is one word of the failure table."""

    cause: str


Verdict = Accepted | Rejected | Unknown

MISTIMED: Final = {1003, 1004}
"""Codes that refuse a signed token for its time only."""

_BY_CODE: Final[dict[int | str, Move | None]] = {
    # None is: cannot be told, so unknown.
    1000: Move.GIVE_UP,
    1001: Move.GIVE_UP,
    1002: Move.GIVE_UP,
    1003: Move.RESIGN,
    1004: Move.RESIGN,
    1100: Move.GIVE_UP,
    1101: Move.GIVE_UP,
    1102: Move.GIVE_UP,
    1103: Move.GIVE_UP,
    1200: Move.GIVE_UP,
    1201: Move.GIVE_UP,
    1202: Move.GIVE_UP,
    1203: Move.GIVE_UP,
    1300: Move.GIVE_UP,
    1301: Move.GIVE_UP,
    1302: Move.LATER,
    1303: Move.LATER,
    1304: Move.GIVE_UP,
    5000: None,
    5001: None,
    5002: None,
    "quota_not_enough": Move.GIVE_UP,
}

_BARE: Final[dict[int, Move]] = {
    # Statuses that are a refusal whatever the body holds.
    301: Move.GIVE_UP,
    302: Move.GIVE_UP,
    307: Move.GIVE_UP,
    308: Move.GIVE_UP,
    401: Move.GIVE_UP,
    402: Move.GIVE_UP,
    404: Move.GIVE_UP,
    405: Move.GIVE_UP,
    407: Move.GIVE_UP,  # a proxy that wants a password passes nothing on
    413: Move.GIVE_UP,
    415: Move.GIVE_UP,
    422: Move.GIVE_UP,
    425: Move.ONCE,
    429: Move.LATER,
    501: Move.GIVE_UP,
    505: Move.GIVE_UP,
}

_READABLE: Final[dict[int, Move]] = {
    # Statuses that are a refusal only with an error body whose shape is known: a proxy's page says nothing.
    400: Move.GIVE_UP,
    403: Move.GIVE_UP,
}


def judge(seen: Snapshot | Blank | Refusal | ProtocolError | Failure, *, key: str, profile: Profile) -> Verdict:
    """What became of a creation sent under `key` (its `external_task_id`)."""
    match seen:
        case Snapshot():
            if seen.external_task_id not in {None, "", key}:
                return Unknown(cause="other-key")
            return Accepted(snapshot=seen)
        case Blank():
            return Unknown(cause="no-task-id")
        case ProtocolError():
            return Unknown(cause="malformed-reply")
        case Failure():
            if seen.sent:
                return Unknown(cause=seen.cause)
            return Rejected(move=Move.GIVE_UP if seen.final else Move.AGAIN, error=seen.error())
        case Refusal():
            move = _move(seen, profile)
            if move is None:
                return Unknown(cause=f"http-{seen.http_status}" if seen.http_status >= 300 else f"code-{seen.code}")  # noqa: PLR2004
            return Rejected(move=move, error=seen.error())
        case _:
            assert_never(seen)


def _move(refusal: Refusal, profile: Profile) -> Move | None:
    if refusal.code in _BY_CODE:
        return _BY_CODE[refusal.code]
    if refusal.readable and isinstance(refusal.error(), ConcurrencyLimitError):
        return Move.LATER
    if refusal.http_status in _BARE:
        return _BARE[refusal.http_status]
    if refusal.readable and refusal.http_status in _READABLE:
        return _READABLE[refusal.http_status]
    if refusal.readable and refusal.http_status >= 500 and profile.json_error_means_not_charged:  # noqa: PLR2004
        return Move.GIVE_UP
    return None
