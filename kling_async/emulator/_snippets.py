"""A request as text to copy: for a shell, and for Python with the SDK. Made from what was sent by one rule for all jobs. Pure."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pprint import pformat
from typing import Any, Final
from urllib.parse import quote

from attrs import fields, frozen

from kling_async.emulator._facts import endpoint_of
from kling_async.jobs import ALL_JOBS

_JOBS: Final = {str(job.route): job for job in ALL_JOBS}
_CUT: Final = re.compile(r".{24}…<(\d+) characters>", re.DOTALL)
"""What a log makes of a file."""
_KEY: Final = "external_task_id"
_WIDTH: Final = 100


@frozen(repr=False)
class _File:
    """Stands where a request had one."""

    name: str

    def __repr__(self) -> str:
        """Its name, as Python text."""
        return _quoted(self.name)


def curl(*, method: str, url: str, route: str | None, body: Any) -> str:
    """The request for a shell, its key in `KLING_API_KEY`; files that were in it are read from the working directory."""
    implied = "GET" if body is None else "POST"
    lines = [f"curl -sS{'' if method == implied else f' -X {method}'} {shlex.quote(url)}"]
    if route != "files":
        lines.append('-H "Authorization: Bearer $KLING_API_KEY"')
    if body is None:
        return " \\\n  ".join(lines)
    lines.append("-H 'Content-Type: application/json'")
    gap, files = "FILE", list[_File]()
    while gap in json.dumps(body, ensure_ascii=False):
        gap += "E"
    text = json.dumps(_with_files(body, _media(route), files), default=lambda _file: gap, ensure_ascii=False, indent=2)
    if not files:
        return " \\\n  ".join([*lines, f"-d {shlex.quote(text)}"])
    # A file does not fit into an argument; in such a here-document the shell reads files, and three characters need care.
    first, *others = re.sub(r"([\\$`])", r"\\\1", text).split(gap)
    filled = first + "".join(f"$(base64 < {file.name} | tr -d '\\n'){text}" for file, text in zip(files, others, strict=True))
    return " \\\n  ".join([*lines, "--data-binary @- <<JSON"]) + f"\n{filled}\nJSON"


def python(*, method: str, origin: str, profile: str, route: str | None, task_id: str | None, body: Any) -> str | None:
    """The request as a program; nothing where the SDK has no word for it."""
    job = _JOBS.get(route or "")
    if job is None:
        return None
    official = ', profile="official"' if profile == "official" else ""
    session = f"KlingSession(base_url={_quoted(origin)}{official})"
    if method == "POST" and isinstance(body, dict):
        given = _arguments(route or "", _with_files(body, _media(route), []))
        # The same key again would be the same order again, and refused where keys must be unique.
        lines = [f"    {'# ' if name == _KEY else ''}{name}={_literal(value)}," for name, value in given.items()]
        call = [f"handle = await kling.{job.verb}(", *lines, ")"] if lines else [f"handle = await kling.{job.verb}()"]
        work = [*call, 'for path in await handle.save("out"):', "    print(path)"]
    elif method == "GET" and task_id:
        ref = f"kling1,{origin},{str(route).replace('/', ',')},{quote(task_id, safe='')},,"
        work = [f"snapshot = await kling.get({_quoted(ref)})", "print(snapshot.status)"]
    else:
        return None
    inner = "\n".join(f"        {line}".rstrip() for text in work for line in text.split("\n"))
    return (
        "import asyncio\n\nfrom kling_async import KlingSession\n\n\nasync def main() -> None:\n"
        f"    async with {session} as kling:  # the key: KLING_API_KEY\n{inner}\n\n\nasyncio.run(main())\n"
    )


def _media(route: str | None) -> Mapping[str, str]:
    """Name of a field that takes a file → how such a file's name ends."""
    endings = {"picture": ".png", "sound": ".mp3"}
    return {name: endings[rule["type"]] for name, rule in _rules(endpoint_of(route or "").fields) if rule["type"] in endings}


def _rules(rules: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, rule in rules.items():
        yield name, rule
        yield from _rules(rule.get("fields", {}))


def _with_files(value: Any, media: Mapping[str, str], files: list[_File], at: str = "") -> Any:
    """The value with a stand-in for every file that the log has cut; these are added to `files` in order."""
    match value:
        case dict():
            return {name: _with_files(item, media, files, name) for name, item in value.items()}
        case list():
            return [_with_files(item, media, files, at) for item in value]
        case str() if at in media and _CUT.fullmatch(value):
            file = _File(f"{at}{media[at]}")
            files.append(_File(f"{at}-{len(files) + 1}{media[at]}") if file in files else file)
            return files[-1]
        case _:
            return value


def _arguments(route: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The body as the job's own fields; what is none of them, or does not look like one, as `extra`."""
    known = {attribute.name for attribute in fields(_JOBS[route])}
    nested = body.get("input")
    flat = {**nested, **{name: value for name, value in body.items() if name != "input"}} if isinstance(nested, dict) else dict(body)
    taken: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, value in flat.items():
        try:
            unwrap = _UNWRAPPED.get(name, _same)
            (taken if name in known else extra)[name] = unwrap(value) if name in known else value
        except (AttributeError, KeyError, TypeError, ValueError):
            extra[name] = value
    return {**taken, **({"extra": extra} if extra else {})}


def _same(value: Any) -> Any:
    return value


def _camera(value: Any) -> Any:
    return {"type": value["type"], **value.get("config", {})}


def _shots(value: Any) -> Any:
    if [shot["index"] for shot in value] != list(range(1, len(value) + 1)):
        raise ValueError("the SDK counts them from 1")
    return [{name: part for name, part in shot.items() if name != "index"} for shot in value]


def _elements(value: Any) -> Any:
    return [element["element_id"] for element in value]


def _voices(value: Any) -> Any:
    return [voice["voice_id"] for voice in value]


def _is_on(value: Any) -> Any:
    return {"on": True, "off": False}[value]


def _enabled(value: Any) -> Any:
    return value["enabled"]


def _masks(value: Any) -> Any:
    return [{**part, "trajectories": [(point["x"], point["y"]) for point in part["trajectories"]]} for part in value]


_UNWRAPPED: Final[Mapping[str, Callable[[Any], Any]]] = {
    "camera_control": _camera,
    "duration": int,
    "dynamic_masks": _masks,
    "element_list": _elements,
    "multi_prompt": _shots,
    "sound": _is_on,
    "voice_list": _voices,
    "watermark_info": _enabled,
}
"""Where the SDK is given something simpler than what is sent."""


def _literal(value: Any) -> str:
    text = _quoted(value) if isinstance(value, str) else pformat(value, width=_WIDTH, sort_dicts=False)
    return text.replace("\n", "\n    ")


def _quoted(text: str) -> str:
    """Text as people write it: in double quotes, where that needs no more than quotes."""
    plain = repr(text)
    return f'"{plain[1:-1]}"' if plain[0] == "'" and '"' not in plain else plain
