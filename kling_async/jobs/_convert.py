"""From what people write to what a job holds. A `ValueError` says what is wrong; the field's name comes from outside."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from attrs import frozen

from kling_async import media
from kling_async.media import Blob, File, Media, MediaLike

_LARGEST_ID: Final = 2**63 - 1
"""Element ids are a `long` (`api.md` 2.4)."""
_DEEPEST: Final = 64
_NOTHING: Final = "{}"


@frozen(eq=False, repr=False)
class Extra(Mapping[str, Any]):
    """A mapping of JSON values, frozen all the way down: it is text underneath."""

    text: str

    def __getitem__(self, key: str) -> Any:
        """The value; a fresh one each time."""
        return self._fields()[key]

    def __iter__(self) -> Iterator[str]:
        """The names, in the order given."""
        return iter(self._fields())

    def __len__(self) -> int:
        """How many names."""
        return len(self._fields())

    def __repr__(self) -> str:
        """The names only: nobody can know whether a value is a secret."""
        return f"<extra: {', '.join(self) or 'nothing'}>"

    def _fields(self) -> dict[str, Any]:
        return {} if self.text == _NOTHING else dict(json.loads(self.text))


def frozen_json(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """A copy that nobody can change, provided that it is JSON."""
    if isinstance(value, Extra):
        return value
    return Extra(_NOTHING if isinstance(value, dict) and not value else _json_text(value))


def seconds(value: float | str) -> int:
    """`5`, `5.0` and `"5"` as 5."""
    match value:
        case int() if not isinstance(value, bool):
            return value
        case float() if value.is_integer():
            return int(value)
        case str() if re.fullmatch(r"[0-9]{1,4}(\.0+)?", value):
            return int(value.partition(".")[0])
        case _:
            raise ValueError("must be whole seconds, such as 5, 5.0 or '5'")


def optional_seconds(value: float | str | None) -> int | None:
    """Whole seconds, or not said."""
    return None if value is None else seconds(value)


def on_off(value: bool | str | None) -> bool | None:  # noqa: FBT001  called by attrs alone
    """`True`, `False`, or the service's own `on` and `off`."""
    if value is None or isinstance(value, bool):
        return value
    if value in ("on", "off"):
        return value == "on"
    raise ValueError("must be True, False, 'on' or 'off'")


def listed(value: object) -> list[Any]:
    """The entries of anything that is meant as a list."""
    if isinstance(value, str | bytes | bytearray | Mapping) or not isinstance(value, Iterable):
        raise ValueError(f"must be a list or tuple, not {type(value).__name__}")  # noqa: TRY004  what `columns` gives its name
    entries: Iterable[Any] = value
    return list(entries)


def element_ids(value: Iterable[int | str] | None) -> tuple[int, ...] | None:
    """Ids of elements as the integers that the service takes."""
    return None if value is None else tuple(map(_element_id, listed(value)))


def voice_ids(value: Iterable[str] | None) -> tuple[str, ...] | None:
    """Ids of voices, which are text also where they consist of digits."""
    if value is None:
        return None
    ids = listed(value)
    if all(isinstance(entry, str) and entry.isascii() and entry.isprintable() and entry.strip() for entry in ids):
        return tuple(ids)
    raise ValueError("must hold ids of voices as text")


def points(value: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Pairs of pixel coordinates."""
    return tuple(map(_point, listed(value)))


def picture(value: MediaLike | None) -> Media | None:
    """A picture whose size and ratio the service restricts."""
    return None if value is None else media.accept(value, media.PICTURE)


def free_picture(value: MediaLike) -> Media:
    """A picture of any ratio."""
    return media.accept(value, media.FREE_PICTURE)


def mask(value: MediaLike) -> Media:
    """A picture that marks a part of another one."""
    return media.accept(value, media.MASK)


def optional_mask(value: MediaLike | None) -> Media | None:
    """A mask, or none."""
    return None if value is None else mask(value)


def sound(value: MediaLike | None) -> Blob | File | None:
    """A sound that is sent along, and not fetched by the service."""
    taken = None if value is None else media.accept(value, media.SOUND)
    if isinstance(taken, media.Link):
        raise ValueError("must be the sound itself; give a URL as audio_url")  # noqa: TRY004  the type is fine, the kind of value is not
    return taken


def _element_id(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST_ID:
        return value
    raise ValueError("must hold ids of elements: positive whole numbers of at most 64 bits")


def _point(value: object) -> tuple[int, int]:
    match value:
        case [int(x), int(y)] if bool not in {type(x), type(y)} and min(x, y) >= 0:
            return x, y
        case _:
            raise ValueError("must hold pairs (x, y) of whole pixels, counted from the bottom left corner")


def _json_text(value: object) -> str:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError("must be a mapping from field names to JSON values")
    fields: dict[str, Any] = dict(value)
    if _deeper(fields, _DEEPEST):
        raise ValueError(f"may nest {_DEEPEST} levels deep, not more")
    try:
        text = json.dumps(fields, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise ValueError("must hold nothing but JSON values, without NaN, infinity and half characters") from error
    return text


def _deeper(value: object, levels: int) -> bool:
    """Whether containers nest more than `levels` deep, which one that holds itself always does."""
    inner: Iterable[object]
    match value:
        case dict():
            inner = value.values()
        case list() | tuple():
            inner = value
        case _:
            return False
    return not levels or any(_deeper(part, levels - 1) for part in inner)
