"""What a batch asks for: every line a job, or a mistake with its place, its field and the rule. Nothing is sent here."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_type_hints

from attrs import NOTHING, fields, frozen

from kling_async._fault import ConfigurationError
from kling_async.cli._jobs import alternatives_of, parsed
from kling_async.errors import InvalidJobError
from kling_async.jobs import ALL_JOBS, Job
from kling_async.media import Blob, File

__all__ = ["Item", "Mistake", "read_batch"]

_VERBS: Final = {job.verb: job for job in ALL_JOBS}
_PICTURES: Final = {".jpg", ".jpeg", ".png"}
_REST: Final = ""
"""The column of what stands beyond the last column."""
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_LONGEST_PATH: Final = 1024


@frozen(kw_only=True)
class Item:
    """One job of a batch."""

    place: str
    """Where it stands, such as `jobs.jsonl:3`."""
    job: Job[Any]
    word: str
    """The same for the same line of the same file, however often it is read: it is bought once."""


@frozen(kw_only=True)
class Mistake:
    """Why a line is no job."""

    place: str
    field: str
    """Empty where it is the line itself."""
    rule: str

    def __str__(self) -> str:
        """As compilers tell theirs."""
        return ": ".join(filter(None, (self.place, self.field, self.rule)))


@frozen
class _Line:
    place: str
    asked: Mapping[str, Any]


def read_batch(path: Path, *, verb: str | None, prompt: str | None, given: Sequence[str]) -> tuple[list[Item], list[Mistake]]:
    """All that a file, or a folder of pictures, asks for; `verb` and `given` hold for lines that say nothing else.

    Raises:
        ConfigurationError: there is no such file, it cannot be read, or it is empty.
    """
    shared = _shared(given)
    try:
        lines = list(_pictures(path, prompt) if path.is_dir() else _table(path) if path.suffix.lower() == ".csv" else _objects(path))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: is not UTF-8 text") from None
    if not lines:
        raise ConfigurationError(f"{path}: {'holds no picture (PNG or JPEG)' if path.is_dir() else 'asks for nothing'}")
    if prompt is not None and not path.is_dir():
        raise ConfigurationError("--prompt: is for a folder of pictures; a file has a prompt in each line, or --set prompt=…")
    verb = verb or ("image2video" if path.is_dir() else None)
    items, mistakes, seen, keys = list[Item](), list[Mistake](), Counter[str](), dict[str, str]()
    for line in lines:
        if isinstance(line, Mistake):
            mistakes.append(line)
            continue
        asked = {"job": verb, **shared, **line.asked}
        job = _job(line.place, asked, path if path.is_dir() else path.parent)
        if isinstance(job, list):
            mistakes += job
            continue
        key = job.external_task_id
        if key is not None and keys.setdefault(key, line.place) != line.place:
            mistakes.append(Mistake(place=line.place, field="external_task_id", rule=f"is used in {keys[key]}"))
            continue
        digest = _digest(path, asked, job)
        seen[digest] += 1  # the same line twice is two wishes
        items.append(Item(place=line.place, job=job, word=f"batch-{digest}-{seen[digest]}"))
    return items, mistakes


def _shared(given: Sequence[str]) -> dict[str, Any]:
    pairs = [text.partition("=") for text in given]
    for name, equals, _ in pairs:
        if not equals or not name:
            raise ConfigurationError(f"--set: write NAME=VALUE, such as --set duration=5, not {name!r}")
    return {name.replace("-", "_"): _Typed(value) for name, _, value in pairs}


class _Typed(str):
    """What was typed as text, where a field may want a number."""

    __slots__ = ()


def _objects(path: Path) -> Iterator[_Line | Mistake]:
    with path.open(encoding="utf-8-sig") as file:
        for number, text in enumerate(file, 1):
            place = f"{path.name}:{number}"
            if not text.strip():
                continue
            try:
                asked = json.loads(text)
            except ValueError as error:
                yield Mistake(place=place, field="", rule=f"is not JSON: {error}")
                continue
            if isinstance(asked, dict):
                yield _Line(place, asked)
            else:
                yield Mistake(place=place, field="", rule='must be an object, such as {"job": "text2video", "prompt": "a fox"}')


def _table(path: Path) -> Iterator[_Line | Mistake]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, restkey=_REST)
        for row in rows:
            place = f"{path.name}:{rows.line_num}"
            if _REST in row:
                yield Mistake(place=place, field="", rule=f"has more values than there are columns ({len(rows.fieldnames or ())})")
            elif said := {str(name).strip(): _Typed(text) for name, text in row.items() if text}:
                yield _Line(place, said)


def _pictures(folder: Path, prompt: str | None) -> Iterator[_Line]:
    for picture in sorted(folder.iterdir()):
        if picture.suffix.lower() in _PICTURES and picture.is_file():
            said = {} if prompt is None else {"prompt": prompt.replace("{name}", picture.stem)}
            yield _Line(picture.name, {"image": picture.name, **said})


def _job(place: str, asked: Mapping[str, Any], folder: Path) -> Job[Any] | list[Mistake]:
    verb = asked["job"]
    kind = _VERBS.get(str(verb).replace("-", "_"))
    if kind is None:
        problem = "is not said; give it in the line, or --job for all" if verb is None else f"{verb!r} is none"
        return [Mistake(place=place, field="job", rule=f"{problem}: {', '.join(_VERBS)}")]
    attributes, hints = {attribute.name: attribute for attribute in fields(kind)}, get_type_hints(kind)
    said = {name: value for name, value in asked.items() if name != "job" and value is not None}
    faults = [Mistake(place=place, field=name, rule=f"is no field of {kind.verb}") for name in said if name not in attributes]
    faults += [
        Mistake(place=place, field=name, rule="is required")
        for name, attribute in attributes.items()
        if attribute.default is NOTHING and name not in said
    ]
    if faults:
        return faults
    try:
        return kind(**{name: _value(name, value, hints[name], folder) for name, value in said.items()})
    except InvalidJobError as error:
        return [Mistake(place=place, field=error.field, rule=error.rule)]


def _value(name: str, value: Any, hint: Any, folder: Path) -> Any:
    alternatives = alternatives_of(hint)
    if isinstance(value, str) and Blob in alternatives:
        # A path counts from the file it stands in; neither a URL nor base64 is taken for one.
        is_path = "." in value and len(value) <= _LONGEST_PATH and not _SCHEME.match(value)
        return folder / value if is_path else str(value)
    if not isinstance(value, _Typed):
        return value
    if str in alternatives:
        return str(value)
    return parsed(name, value.lower() if bool in alternatives else value)


def _digest(path: Path, asked: Mapping[str, Any], job: Job[Any]) -> str:
    held = [getattr(job, attribute.name) for attribute in fields(type(job))]
    digests = [_digest_of(value) for value in held if isinstance(value, File)]  # another picture under the same name is another job
    text = json.dumps([str(path.resolve()), asked, digests], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _digest_of(file: File) -> str:
    with open(file.path, "rb") as reader:  # noqa: PTH123  a text
        return hashlib.file_digest(reader, "sha256").hexdigest()
