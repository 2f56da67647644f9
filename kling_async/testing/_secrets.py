"""Secrets looked for where errors could show them: their texts, their chain, their frames, and what is left of them in a pickle."""

from __future__ import annotations

import contextlib
import pickle
import traceback
from collections.abc import Iterable

__all__ = ["leaked", "shown_by"]


def leaked(secrets: Iterable[str], *shown: object) -> list[str]:
    """The secrets that any of these shows, in its text or to a debugger; of an error, all that `shown_by` gives.

    Make up secrets that cannot occur by chance, use them as key or token, and look through all that leaves your program.
    """
    text = "\n".join(part for each in shown for part in _texts(each))
    return [secret for secret in secrets if secret in text]


def shown_by(error: BaseException, *, package: str = "kling_async") -> list[str]:
    """All that an error can say to anybody: text, arguments, attributes, pickle, and locals of the frames it passed.

    The same of every error that it was made from, shown or not.

    Args:
        error: as it was caught.
        package: whose frames to look into; those of others are not its doing.
    """
    return [
        text for each in _chain(error) for text in (str(each), repr(each), repr(each.args), str(vars(each)), *_locals(each, package))
    ] + [_pickled(error)]


def _texts(shown: object) -> Iterable[str]:
    match shown:
        case bytes():
            return (shown.decode("latin-1"),)
        case BaseException():
            return shown_by(shown)
        case _:
            return (str(shown), repr(shown))


def _chain(error: BaseException) -> Iterable[BaseException]:
    found: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        each = left.pop()
        if each is None or each in found:
            continue
        found.append(each)
        left += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions
    return found


def _locals(error: BaseException, package: str) -> list[str]:
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)  # as the most talkative loggers do
    homes = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    frames = zip(homes, shown.stack, strict=True)
    return [str(frame.locals) for home, frame in frames if home == package or home.startswith(f"{package}.")]


def _pickled(error: BaseException) -> str:
    with contextlib.suppress(Exception):  # whatever keeps it from travelling, it tells nothing then
        return pickle.dumps(error).decode("latin-1")
    return ""
