"""What a post must be like to be listened to. Pure: values in, a status or `None` out.

Nobody is told whether a token was never made, is wrong or has ended: all that is the same 404.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Final, TypeAlias

from attrs import field, frozen

__all__ = ["LARGEST", "PATIENCE", "Answer", "Body", "Post", "flat", "head_fault", "token_of"]

LARGEST: Final = 64 * 1024
"""Bytes of a body; a task of nine pictures with signed links has about eight thousand."""
PATIENCE: Final = 5.0
"""Seconds that a body may take to arrive."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_JSON: Final = re.compile(r'application/json\s*(?:;\s*charset="?utf-?8"?\s*)?;?\s*', re.IGNORECASE)
_LENGTH: Final = re.compile(r"[0-9]{1,18}")


@frozen(kw_only=True)
class Post:
    """The head of a request."""

    method: str
    path: str = field(repr=False)
    """Below the receiver's place, without the slash before it: a token, if it is right."""
    query: bool
    """Whether there is a query, which no URL of ours has."""
    headers: Mapping[str, str] = field(repr=False)
    """By names in lower case."""


Body: TypeAlias = Callable[[], Awaitable[bytes | None]]
"""Gives the next piece of a body, `None` at its end; raises `CallbackError` where it cannot be read."""

Answer: TypeAlias = Callable[[Post, Body], Awaitable[HTTPStatus]]
"""What a post is answered. Does not raise."""


def flat(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by name; one that came twice is one with a comma in it, which none of those read here may have."""
    headers: dict[str, str] = {}
    for name, value in pairs:
        known = headers.get(name.lower())
        headers[name.lower()] = value if known is None else f"{known}, {value}"
    return headers


def token_of(post: Post) -> str | None:
    """The token in a path that may be one of ours."""
    return post.path if _TOKEN.fullmatch(post.path) and not post.query else None


def head_fault(post: Post) -> HTTPStatus | None:
    """Why the body of a post with a token of ours is not even read."""
    if not _JSON.fullmatch(post.headers.get("content-type", "").strip()):
        return HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    if post.headers.get("content-encoding", "identity").strip().lower() != "identity":
        return HTTPStatus.BAD_REQUEST  # a few packed bytes may be very many
    length = post.headers.get("content-length", "0").strip()
    if not _LENGTH.fullmatch(length):
        return HTTPStatus.BAD_REQUEST
    return HTTPStatus.REQUEST_ENTITY_TOO_LARGE if int(length) > LARGEST else None
