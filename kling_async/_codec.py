"""The only importer of cattrs: jobs to the service's JSON, the service's JSON to values. Wire forms live here only."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

from attrs import fields_dict, has
from cattrs import Converter
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from kling_async._body import Body, Part, seal
from kling_async.errors import ProtocolError
from kling_async.jobs import CameraControl, Job, LipSync
from kling_async.media import Blob, File, Link
from kling_async.models import Audio, Image, ParentVideo, Video

__all__ = ["decode", "decode_entries", "encode", "has_local_media", "sealed", "to_body", "to_canonical_json"]

Entry = TypeVar("Entry", Video, Image, Audio, ParentVideo)

_OUTSIDE: Final = ("callback_url", "external_task_id")
"""The fields of a lip-sync that are not nested under `input` (`api.md` 3.7)."""
_MOST_ENTRIES: Final = 1000
"""Entries taken from one reply; the service makes at most 9."""
_LARGEST_ID: Final = 10**40
"""Numbers from here on are no ids, which have 18 digits."""
_INDEX_DIGITS: Final = 9
_GAP: Final = "\ud800"
"""Stands for media while a body is made into text: half a character, which no text that can be sent may hold."""
_SIGNED: Final = re.compile(r"https?://[^?\s]*\?", re.IGNORECASE)

_Body = dict[str, Any]

_ALTERNATIVES: Final = {"url": ("url_mp3", "url_wav"), "duration": ("duration_mp3", "duration_wav")}
"""Under which other names sounds come (`api.md` 2.3)."""

_converter: Final = Converter()

_FORMS: Final[dict[str, Callable[[Any], object]]] = {
    # Durations are JSON strings: some gateways answer a number with 500 (`api.md` 10).
    "duration": str,
    "sound": lambda sound: "on" if sound else "off",
    "watermark_info": lambda enabled: {"enabled": enabled},
    "element_list": lambda ids: [{"element_id": element_id} for element_id in ids],
    "voice_list": lambda ids: [{"voice_id": voice_id} for voice_id in ids],
    "multi_prompt": lambda shots: [{"index": index} | _converter.unstructure(shot) for index, shot in enumerate(shots, 1)],
    "trajectories": lambda points: [{"x": x, "y": y} for x, y in points],
}
"""The fields whose wire form is not their value, in whatever class they stand."""


def encode(job: Job[Any], *, external_task_id: str) -> _Body:
    """The body that asks for `job`, as JSON values, except that media from here are still `Blob` or `File`."""
    body: _Body = _converter.unstructure(job)
    extra = dict(job.extra)
    if isinstance(job, LipSync) and isinstance(nested := extra.get("input"), dict):
        extra["input"] = body["input"] | nested
    return body | {"external_task_id": external_task_id} | extra


def has_local_media(body: object) -> bool:
    """Whether there is anything for `sealed` to do, which belongs into a worker thread."""
    if isinstance(body, dict):
        return any(map(has_local_media, body.values()))
    return isinstance(body, Blob | File) or (isinstance(body, list) and any(map(has_local_media, body)))


def sealed(body: _Body) -> _Body:
    """The same with its media read and hashed, as `to_canonical_json` and `to_body` take it.

    Raises:
        InvalidJobError: a media file has gone or changed since its job was made; names the field.
    """
    return {name: _sealed(value, name) for name, value in body.items()}


def _sealed(value: Any, path: str) -> Any:
    match value:
        case dict():
            return {name: _sealed(part, f"{path}.{name}") for name, part in value.items()}
        case list():
            return [_sealed(part, f"{path}[{index}]") for index, part in enumerate(value)]
        case Blob() | File():
            return seal(value, path)
        case _:
            return value


def to_body(body: _Body) -> Body:
    """What to send; its media become base64 when it is sent, in steps, and stand nowhere as a whole."""
    parts: list[Part] = []

    def gap(part: Part) -> str:
        parts.append(part)
        return _GAP

    text = json.dumps(body, default=gap, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    first, *others = text.split(_GAP)
    return Body((first.encode(), *(piece for part, after in zip(parts, others, strict=True) for piece in (part, after.encode()))))


def to_canonical_json(body: _Body) -> str:
    """The request as a text by which two can be told apart: media and the queries of links by their digest, without its key."""
    unsigned = {name: _unsigned(value) for name, value in body.items() if name != "external_task_id"}
    return _CANONICAL.encode(unsigned)


def _unsigned(value: Any) -> Any:
    # What follows the question mark may be a signature or a token, and this text is written to disk.
    match value:
        case dict():
            return {name: _unsigned(item) for name, item in value.items()}
        case list() | tuple():
            return [_unsigned(item) for item in value]
        case str() if "?" in value and _SIGNED.match(value):
            link, _, secret = value.partition("?")
            return f"{link}?sha256:{hashlib.sha256(secret.encode('utf-8', 'surrogatepass')).hexdigest()}"
        case _:
            return value


def _digest(part: Part) -> str:
    return f"sha256:{part.digest}"


_CANONICAL: Final = json.JSONEncoder(default=_digest, allow_nan=False, sort_keys=True, separators=(",", ":"))


def decode(data: object, type_: type[Entry]) -> Entry:
    """One entry of a reply. Whatever is missing or odd becomes `None` or empty, except the link, without which it is none.

    Raises:
        ProtocolError: it is no object, or has no `url` where the type needs one.
    """
    noun = type_.__name__.lower()
    if not isinstance(data, Mapping):
        raise ProtocolError(f"expected a {noun}, got {type(data).__name__}")
    entry: Entry = _converter.structure(data, type_)
    if entry.url == "":
        raise ProtocolError(f"a {noun} without a link", path="url")
    return entry


def decode_entries(data: object, type_: type[Entry]) -> tuple[Entry, ...]:
    """The entries of a result, in order; those without a link are left out, as there is nothing to have.

    Raises:
        ProtocolError: it is neither a list nor one entry nor nothing.
    """
    if data is None:
        return ()
    given: Any = [data] if isinstance(data, Mapping) else data
    if not isinstance(given, list):
        raise ProtocolError(f"expected a list of {type_.__name__.lower()}s, got {type(given).__name__}")
    found = list[Entry]()
    for position, entry in enumerate(given[:_MOST_ENTRIES]):
        with suppress(ProtocolError):
            found.append(decode(_indexed(entry, position), type_))
    return tuple(found)


def _indexed(entry: Any, position: int) -> Any:
    # Gateways leave out the index of pictures (`api.md` 2.3).
    return {**entry, "index": position} if isinstance(entry, Mapping) and _whole(entry.get("index")) is None else entry


def _writer(cls: type[Any]) -> Callable[[Any], _Body]:
    names = fields_dict(cls)
    forms: dict[str, Any] = {name: override(unstruct_hook=form) for name, form in _FORMS.items() if name in names}
    # `None` is the default of all that need not be said, and is not sent.
    return make_dict_unstructure_fn(cls, _converter, _cattrs_omit_if_default=True, extra=override(omit=True), **forms)


def _write_itself(media: Blob | File) -> Blob | File:
    return media


def _write_link(link: Link) -> str:
    return link.url


def _write_camera(camera: CameraControl) -> _Body:
    return {"type": camera.type} | ({"config": camera.axes} if camera.axes else {})


def _write_lip_sync(job: LipSync) -> _Body:
    flat = _write_flat_lip_sync(job)
    return {name: flat.pop(name) for name in _OUTSIDE if name in flat} | {"input": flat}


def _reader(cls: type[Any]) -> Callable[[Mapping[str, Any], Any], Any]:
    read = make_dict_structure_fn(cls, _converter)

    def tolerant(data: Mapping[str, Any], _: Any) -> Any:
        others = _ALTERNATIVES if cls is Audio else {}
        given = {name: next(filter(None, map(data.get, (name, *others.get(name, ())))), None) for name in fields_dict(cls)}
        if not isinstance(given["url"], str) or given["url"].isspace():
            given["url"] = None
        return read(given, cls)

    return tolerant


def _read_text(value: object, _: Any) -> str:
    match value:
        case str():
            return value.encode(errors="replace").decode()
        case int() if not isinstance(value, bool) and abs(value) < _LARGEST_ID:
            return str(value)
        case _:
            return ""


def _read_optional_text(value: object, _: Any) -> str | None:
    return _read_text(value, str) or None if isinstance(value, str) else None


def _read_seconds(value: object, _: Any) -> float | None:
    try:
        seconds = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.inf
    except (ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < math.inf else None


def _read_index(value: object, _: Any) -> int:
    return _whole(value) or 0


def _whole(value: object) -> int | None:
    text = _read_text(value, str)
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _INDEX_DIGITS else None


_converter.register_unstructure_hook_factory(has, _writer)
_write_flat_lip_sync = _writer(LipSync)
_converter.register_unstructure_hook(LipSync, _write_lip_sync)
_converter.register_unstructure_hook(CameraControl, _write_camera)
_converter.register_unstructure_hook(Link, _write_link)
_converter.register_unstructure_hook(Blob, _write_itself)
_converter.register_unstructure_hook(File, _write_itself)
_converter.register_structure_hook_factory(has, _reader)
_converter.register_structure_hook(str, _read_text)
_converter.register_structure_hook(str | None, _read_optional_text)
_converter.register_structure_hook(float | None, _read_seconds)
_converter.register_structure_hook(int, _read_index)
