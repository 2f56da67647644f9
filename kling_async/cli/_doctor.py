"""Looks at everything a purchase needs and buys nothing: each check one line, and what to do about it."""

from __future__ import annotations

import json
import platform
import sys
import time
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Final

from attrs import frozen
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kling_async._auth import ApiKey, Credentials, fingerprint
from kling_async._clock import SystemClock
from kling_async._fault import ConfigurationError, KlingError
from kling_async._profile import OFFICIAL, Profile, address_from, origin_of, profile_named
from kling_async._version import __version__
from kling_async._wire import Refusal, Reply, decipher, reading
from kling_async.cli._exit import Exit, exit_of
from kling_async.cli._journal import journal_path
from kling_async.cli._key import key_at_hand
from kling_async.cli._options import Connection
from kling_async.cli._progress import printable
from kling_async.cli._run import Desk
from kling_async.errors import ApiError, AuthenticationError, NotFoundError, ProtocolError, ServiceError
from kling_async.jobs import Text2Video
from kling_async.journal import Journal, State
from kling_async.transport import FailedExchange, Transport

__all__ = ["examine"]

_NO_TASK: Final = "100000000000000001"
"""An id that no task has: asking for it buys nothing, and any server of this API has an answer."""
_SKEW: Final = 60.0
"""Seconds that the clocks may differ: a signed token is dated back by 5 and lives for 1500 at the least."""
_MOST: Final = 1_000_000
_STYLES: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


@frozen(kw_only=True)
class _Check:
    what: str
    verdict: str
    """`ok`, `warn` or `fail`."""
    detail: str
    code: Exit = Exit.OK
    """What the command ends with when this is the first that failed."""


async def examine(desk: Desk, options: Connection) -> Exit:
    """Write the checks; gives the exit code of the first that failed."""
    checks = [_versions()]
    credentials, key = _key()
    base, address = _address(options)
    checks += [key, address]
    if credentials is not None and base:
        checks += await _gateway(credentials, base, profile_named(options.profile))
    checks.append(await _journal(options))
    if sys.stdout.isatty() and not options.json:
        _draw(checks)
    else:
        for check in checks:
            facts = {"check": check.what, "verdict": check.verdict, "detail": check.detail}
            desk.board.result(json.dumps(facts) if options.json else f"{check.verdict:<4}  {check.what:<8}  {check.detail}")
    return next((check.code for check in checks if check.verdict == "fail"), Exit.OK)


def _draw(checks: list[_Check]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        table.add_row(Text(check.verdict, style=_STYLES[check.verdict]), check.what, check.detail)
    Console(highlight=False, markup=False, emoji=False).print(table)


def _ok(what: str, detail: str) -> _Check:
    return _Check(what=what, verdict="ok", detail=printable(detail))


def _warn(what: str, detail: str) -> _Check:
    return _Check(what=what, verdict="warn", detail=printable(detail))


def _fail(what: str, detail: str, code: Exit) -> _Check:
    return _Check(what=what, verdict="fail", detail=printable(detail), code=code)


def _versions() -> _Check:
    names = ("aiohttp", "attrs", "cattrs", "anyio")
    known = ", ".join(f"{name} {version(name)}" for name in names)
    return _ok("version", f"kling_async {__version__}, Python {platform.python_version()} on {platform.system()}, {known}")


def _key() -> tuple[Credentials | None, _Check]:
    try:
        credentials = key_at_hand()
    except ConfigurationError as error:
        return None, _fail("key", str(error), Exit.WRONG)
    # Not one character of it: what people paste into a report is this line.
    match credentials:
        case None:
            return None, _fail("key", "not set: export KLING_API_KEY=… (of your gateway's console)", Exit.WRONG)
        case ApiKey():
            told = f"from KLING_API_KEY, {len(credentials.text)} characters"
        case _:
            told = "from KLING_ACCESS_KEY and KLING_SECRET_KEY"
    return credentials, _ok("key", f"{told}, account {fingerprint(credentials)} in the journal")


def _address(options: Connection) -> tuple[str, _Check]:
    profile = profile_named(options.profile)
    try:
        base = address_from(options.base_url, None, profile, insecure=False)
    except ConfigurationError as error:
        told = str(error) if options.base_url else "not set: export KLING_BASE_URL=https://… (your gateway's address)"
        return "", _fail("address", told, Exit.WRONG)
    return base, _ok("address", f"{base} (profile {profile.name})")


async def _gateway(credentials: Credentials, base: str, profile: Profile) -> list[_Check]:
    clock = SystemClock()
    transport = Transport(credentials=credentials, clock=clock)
    route = Text2Video.route
    started = clock.now()
    try:
        reply = await transport.read(reading(base, route.action, route.action2, _NO_TASK))
    except FailedExchange as failed:
        error = failed.failure.error()
        return [_fail("gateway", f"{error}; check the address, the network and a proxy", exit_of(error))]
    finally:
        await transport.aclose()
    wall, took = time.time(), clock.now() - started
    return [_clocks(reply, wall, took), _answer(reply, wall, took, base, profile)]


def _clocks(reply: Reply, wall: float, took: float) -> _Check:
    try:
        skew = wall - took / 2 - parsedate_to_datetime(reply.headers.get("date", "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return _warn("clock", "the gateway does not tell its time, so this machine's cannot be checked")
    told = f"this machine's is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the gateway's"
    if abs(skew) > _SKEW:
        return _warn("clock", f"{told}: set it right (signed tokens are refused, links seem expired)")
    return _ok("clock", told if abs(skew) > 1 else "as the gateway's")


def _answer(reply: Reply, wall: float, took: float, base: str, profile: Profile) -> _Check:
    origin, after = origin_of(base), f"after {took * 1000:.0f} ms"
    try:
        seen = decipher(reply, wall=wall)
    except ProtocolError as broken:
        return _fail("gateway", f"{origin} answers, but not this API ({broken}): is the path of the address right?", Exit.SERVICE)
    if not isinstance(seen, Refusal):
        return _ok("gateway", f"answers {after}")
    error = seen.error()
    if isinstance(error, AuthenticationError):
        return _fail("gateway", f"refuses the key: {error}", Exit.NO_ACCESS)
    if not seen.readable:
        return _fail("gateway", f"{origin} answers, but not this API ({error}): is the path of the address right?", Exit.SERVICE)
    if isinstance(error, ServiceError) and seen.http_status >= 500 and seen.code is None:  # noqa: PLR2004  the 5xx family
        return _warn("gateway", f"answers {after} that it is broken: {error}; try again later")
    return _ok("gateway", f"answers {after} as {_dialect(error, profile)}")


def _dialect(error: ApiError, profile: Profile) -> str:
    if isinstance(error.code, str):
        return "a gateway (new-api)" if error.code == "task_not_exist" else f"a gateway (its word: {error.code})"
    if isinstance(error, NotFoundError) or error.code is not None:
        return "Kling itself" if profile is OFFICIAL else f"Kling, passed on (code {error.code})"
    return f"a gateway (HTTP {error.http_status})"


async def _journal(options: Connection) -> _Check:
    path = journal_path(options)
    if path is None:
        return _warn("journal", "none: a crash loses what was bought; leave --no-journal away")
    try:
        async with Journal(path) as journal:
            rows = await journal.rows(most=_MOST)
    except KlingError as error:
        return _fail("journal", f"{error}; nothing can be bought with it: choose another with --journal", exit_of(error))
    unknown = sum(row.state is State.UNKNOWN for row in rows)
    open_ = sum(not row.state.final for row in rows)
    facts = f"{path}: {len(rows)} purchases, {open_} unfinished"
    if unknown:
        return _warn("journal", f"{facts}, {unknown} of unknown outcome: kling recover shows what to do")
    return _ok("journal", facts)
