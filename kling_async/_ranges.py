"""Going on where a download broke off (RFC 9110, 13 and 14): what to ask for, and what a reply means. When in doubt, from zero."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Final

from attrs import frozen

__all__ = ["Body", "Held", "Move", "Refused", "headers_for", "judge"]

_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_BEYOND: Final = re.compile(r"bytes \*/(\d{1,18})")
_STRONG_TAG: Final = re.compile(r'"[\x21\x23-\x7e]{1,1000}"')
_PAGE: Final = re.compile(r"(?:application|text)/(?:xml|html|xhtml\+xml)")
_GONE: Final = frozenset({403, 404, 410})
_BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


@frozen(kw_only=True)
class Held:
    """What there is of a file so far."""

    size: int = 0
    validator: str = ""
    """Its strong `ETag`, else its `Last-Modified`; empty when nothing tells one version from another."""
    total: int | None = None
    """Bytes of the whole, when that was told."""

    @property
    def may_go_on(self) -> bool:
        """Whether more can be had without beginning again."""
        return bool(self.size and self.validator)


@frozen(kw_only=True)
class Body:
    """Bytes from `start` on, which is 0 or where what is held ends."""

    start: int
    end: int | None
    """Where they end; `None` when that was not told."""
    total: int | None
    validator: str


class Move(Enum):
    """What else a reply may mean."""

    COMPLETE = "nothing is missing"
    AGAIN = "what is held, or what was said of it, is not to be trusted: ask for the whole"
    EXPIRED = "the link is dead; a fresh one may not be"
    BUSY = "later, perhaps"


@frozen
class Refused:
    """The reply is of no use, and will not be: why."""

    why: str


def headers_for(held: Held) -> dict[str, str]:
    """The headers that ask for what is missing."""
    return {"Range": f"bytes={held.size}-", "If-Range": held.validator} if held.may_go_on else {}


def judge(held: Held, status: int, headers: Mapping[str, str]) -> Body | Move | Refused:
    """What the head of a reply means to who holds that much; the names of `headers` are in lower case."""
    asked = held.may_go_on
    if status in _GONE or (status == 200 and _PAGE.match(headers.get("content-type", "").lower())):  # noqa: PLR2004
        return Move.EXPIRED
    if status in _BUSY:
        return Move.BUSY
    if status in {200, 206} and (coding := headers.get("content-encoding", "identity").lower()) != "identity":
        return Refused(f"the file host sent it packed ({coding[:40]}), though asked for it as it is")
    if status == 206 and asked:  # noqa: PLR2004
        return _partial(held, headers) or Move.AGAIN
    if status == 200:  # noqa: PLR2004
        return _whole(held, headers)
    if status == 416 and asked:  # noqa: PLR2004
        beyond = _BEYOND.fullmatch(headers.get("content-range", ""))
        is_all = beyond is not None and int(beyond[1]) == held.size == (held.total or held.size)
        return Move.COMPLETE if is_all and _validator(headers) in {"", held.validator} else Move.AGAIN
    return Refused(f"the file host answered HTTP {status}")


def _partial(held: Held, headers: Mapping[str, str]) -> Body | None:
    found = _RANGE.fullmatch(headers.get("content-range", ""))
    if found is None or _tag_or_date(headers) not in {"", held.validator}:
        return None
    start, end = int(found[1]), int(found[2]) + 1
    total = held.total if found[3] == "*" else int(found[3])
    if start != held.size or total is None or not start < end <= total or total != (held.total or total):
        return None
    length = _length(headers)
    return Body(start=start, end=end, total=total, validator=held.validator) if length in {None, end - start} else None


def _whole(held: Held, headers: Mapping[str, str]) -> Body | Move | Refused:
    length, validator = _length(headers), _validator(headers)
    span = headers.get("content-range")
    if span is not None and span != f"bytes 0-{(length or 0) - 1}/{length}":
        return Move.AGAIN if held.may_go_on else Refused("the file host sent a part of the file as if it were the whole")
    if held.may_go_on and (length is None or (length != held.total and validator in {"", held.validator})):
        return Move.AGAIN  # it may be the rest under the wrong name: who asks for no range gets none
    return Body(start=0, end=length, total=length, validator=validator)


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("content-length", "")
    return int(text) if re.fullmatch(r"\d{1,18}", text) else None


def _tag_or_date(headers: Mapping[str, str]) -> str:
    return headers.get("etag") or headers.get("last-modified", "")


def _validator(headers: Mapping[str, str]) -> str:
    tag = headers.get("etag")
    if tag is not None:  # where there is a tag, weak or not, a date says nothing that it does not
        return tag if _STRONG_TAG.fullmatch(tag) else ""
    modified = headers.get("last-modified", "")
    try:
        changed = parsedate_to_datetime(modified)
        # A file that changed in the second of the reply may change again in it (RFC 9110, 8.8.2.2).
        settled = "date" not in headers or (parsedate_to_datetime(headers["date"]) - changed).total_seconds() >= 1
    except (ValueError, TypeError, OverflowError):
        return ""
    return modified if settled and modified.isprintable() and modified.isascii() else ""
