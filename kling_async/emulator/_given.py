"""What an emulator is told when it is made, checked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kling_async.emulator._facts import SLOTS


def slots_from(given: Mapping[str, Any]) -> dict[str, int]:
    """Tasks at once per kind, as the service has them where nothing is said.

    Raises:
        ValueError: no such kind, or no whole number from 0.
    """
    for kind, count in given.items():
        if kind not in SLOTS or not isinstance(count, int) or isinstance(count, bool) or count < 0:
            msg = f"slots: whole numbers from 0 for {', '.join(SLOTS)}; got {count!r} for {kind!r}"
            raise ValueError(msg)
    return {**SLOTS, **given}


def durations_from(given: Mapping[str, float] | float | None, kinds: Mapping[str, str]) -> dict[str, float]:
    """Seconds a task takes by route or kind; `kinds` are those of the routes there are.

    Raises:
        ValueError: no such route or kind.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        return dict.fromkeys(kinds.values(), float(given))
    known = {*kinds, *kinds.values()}
    strange = sorted(set(given) - known)
    if strange:
        msg = f"durations: no route or kind {strange[0]!r}; there are {', '.join(sorted(known))}"
        raise ValueError(msg)
    return dict(given)


def origin_of(host: str, port: int) -> str:
    """Scheme, host and port under which a client on this machine finds it."""
    # The unspecified addresses are for listening; to connect, everyone has loopback.
    reachable = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  compared, not bound
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
