"""The emulator's smaller parts: its log, its doors, its signature, its time."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from kling_async.emulator._auth import Doors
from kling_async.emulator._callbacks import sign
from kling_async.emulator._facts import Refused
from kling_async.emulator._ledger import masked
from kling_async.emulator._tasks import shortened
from kling_async.emulator._time import EmulatedTime


def test_log_values_are_short() -> None:
    """Files are cut from what is logged, words are not."""
    body = {"prompt": "x" * 2500, "image": "A" * 5000, "list": [{"mask": "B" * 4000}]}
    short = shortened(body)
    assert short["prompt"] == body["prompt"]
    assert short["image"] == "A" * 24 + "…<5000 characters>"
    assert short["list"] == [{"mask": "B" * 24 + "…<4000 characters>"}]


def test_credentials_are_masked() -> None:
    """A log says that a key came, never which."""
    shown = masked({"Authorization": "Bearer sk-secret", "Cookie": "a=secret; b=secret", "X-Api-Key": "secret", "Accept": "*/*"})
    assert shown == {"Authorization": "Bearer ***", "Cookie": "***", "X-Api-Key": "***", "Accept": "*/*"}


def token(claims: Mapping[str, Any], *, secret: str = "sk", alg: str = "HS256") -> str:
    """A signed token."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": alg, "typ": "JWT"}, claims)]
    signed = b".".join(parts)
    return (signed + b"." + base64.urlsafe_b64encode(hmac.digest(secret.encode(), signed, "sha256")).rstrip(b"=")).decode()


GOOD = {"iss": "ak", "exp": 1800, "nbf": -5}


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, 1001),
        ("", 1001),
        ("Basic x", 1002),
        ("Bearer ", 1002),
        ("Bearer nonsense", 1002),
        (f"Bearer {token(GOOD, secret='other')}", 1002),
        (f"Bearer {token({**GOOD, 'iss': 'stranger'})}", 1002),
        (f"Bearer {token(GOOD, alg='none')}", 1002),
        (f"Bearer {token({**GOOD, 'exp': None})}", 1002),
        (f"Bearer {token({**GOOD, 'nbf': 10})}", 1003),
        (f"Bearer {token({**GOOD, 'exp': 0})}", 1004),
        (f"Bearer {token(GOOD)[:-4]}\xff", 1002),
    ],
)
def test_closed_doors(authorization: str | None, code: int) -> None:
    """Each way to be wrong has its own code."""
    with pytest.raises(Refused) as caught:
        Doors(access_keys={"ak": "sk"}).account(authorization, 0.0)
    assert caught.value.refusal.code == code
    assert caught.value.refusal.http == 401


def test_open_doors() -> None:
    """Any key opens unless keys are named; a token's account is its issuer's; the account gives no key away."""
    doors = Doors(access_keys={"ak": "sk"})
    first, later = (doors.account(f"Bearer {token({**GOOD, 'exp': end})}", 0.0) for end in (1800, 3600))
    assert first == later
    assert doors.account("Bearer sk-emulator", 0.0) != first
    assert Doors().account("Bearer anything", 0.0) not in {"anything", first}
    assert {Doors().account(f"Bearer {token({**GOOD, 'exp': end})}", 0.0) for end in (1800, 3600)} == {first}
    assert Doors(api_keys=frozenset({"mine"})).account("Bearer mine", 0.0)
    assert Doors().account("Bearer \udcff", 0.0), "a byte that is no UTF-8 is a key like any other"
    with pytest.raises(Refused):
        Doors(api_keys=frozenset({"mine"})).account("Bearer other", 0.0)


def test_webhook_signature() -> None:
    """The published test vector comes out (`api.md` 6.4)."""
    raw = b'{"id":"1234567890","status":"succeeded","message":"","create_time":1781080778802,"update_time":1781080794151}'
    key = base64.b64decode("dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI=")
    assert sign(key, "9876543210", "1781080794", raw) == "v1,UsKlJP00XoQyOn410NM9xv34sP+Gl0jnOO9Lcpr7NJ4="


class HandClock:
    """A clock moved by hand, which lists the timers it was given."""

    def __init__(self) -> None:
        self.at = 50.0
        self.timers: list[HandTimer] = []

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return 1_700_000_000.0 + self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds

    def call_at(self, when: float, callback: Callable[[], object]) -> HandTimer:
        self.timers.append(HandTimer(when, callback))
        return self.timers[-1]

    def set(self, at: float) -> None:
        self.at = at
        for timer in [each for each in self.timers if each.when <= at and each.live]:
            timer.live = False
            timer.callback()


class HandTimer:
    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when, self.callback, self.live = when, callback, True

    def cancel(self) -> None:
        self.live = False


def test_time_is_scaled_and_advanced() -> None:
    """Emulated time runs `speed` times as fast and jumps on `advance`; what is due happens in order, once."""
    clock = HandClock()
    time = EmulatedTime(clock, 10.0)
    happened: list[str] = []
    time.call_at(100.0, lambda: happened.append("late"))
    time.call_at(20.0, lambda: happened.append("soon"))
    clock.set(51.0)
    assert (time.now(), happened) == (10.0, [])
    clock.set(52.1)
    assert happened == ["soon"]
    time.advance(200.0)
    assert happened == ["soon", "late"]
    assert time.millis(5.0) == 1_700_000_055_000
    clock.set(99.0)
    assert happened == ["soon", "late"]
    assert not any(timer.live for timer in clock.timers)


def test_time_that_stands_still() -> None:
    """At speed 0 only `advance` moves it, and no timer is set but for what is due already."""
    clock = HandClock()
    time = EmulatedTime(clock, 0.0)
    happened: list[str] = []
    time.call_at(1.0, lambda: happened.append("later"))
    clock.set(1000.0)
    assert (time.now(), clock.timers) == (0.0, [])
    time.call_at(0.0, lambda: happened.append("now"))
    clock.set(1000.0)
    assert happened == ["now"]
    time.advance(2.0)
    assert time.now() == 2.0


@pytest.mark.parametrize("wrong", [-1.0, float("inf"), float("nan")])
def test_time_refuses_nonsense(wrong: float) -> None:
    """A speed or a jump is a number of 0 or more."""
    with pytest.raises(ValueError, match="speed"):
        EmulatedTime(HandClock(), wrong)
    with pytest.raises(ValueError, match="seconds"):
        EmulatedTime(HandClock(), 1.0).advance(wrong)
