"""Is this body what the endpoint takes? Answered from the facts and the rules alone. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from attrs import define, frozen

from kling_async.emulator import _pictures
from kling_async.emulator._facts import LIMITS, MODELS, Endpoint, Refused, endpoint_of, model_exists
from kling_async.emulator._rules import RULES, is_given

_INVALID: Final = 1201
_UNKNOWN: Final = 1203
_DIGITS: Final = 4
"""Of a number of seconds: the longest clip has three."""


@frozen(kw_only=True)
class Vetted:
    """What the check learnt on its way."""

    model: str = ""
    flaw: str = ""
    """Why the task must fail although the request is fine: media that parses and is no good (`api.md` 2.5)."""
    picture: tuple[int, int] | None = None
    """Width and height of the first picture sent as base64."""
    undocumented: tuple[str, ...] = ()
    """Fields the documentation does not describe. The service ignores them; people want to know."""


def vet(route: str, body: Mapping[str, Any]) -> Vetted:
    """Check a creation body, defaults in force.

    Raises:
        Refused: with the code and the words the service answers.
    """
    endpoint = endpoint_of(route)
    model = _model(endpoint, body)
    check = _Check(model=model)
    check.fields(endpoint.fields, body, "")
    for rule in RULES.get(route, ()):
        complaint = rule(body, model)
        if complaint:
            raise Refused(_INVALID, complaint)
    undocumented = tuple(sorted(_undocumented(endpoint.fields, body, ""))) if endpoint.fields else ()
    return Vetted(model=model, flaw=check.flaw, picture=check.picture, undocumented=undocumented)


def _model(endpoint: Endpoint, body: Mapping[str, Any]) -> str:
    name = body.get("model_name")
    if not endpoint.models or not is_given(name):
        return endpoint.default_model
    if not isinstance(name, str):
        raise Refused(_INVALID, "model_name: must be a string")
    if name in endpoint.models:
        return name
    if model_exists(name):
        raise Refused(_INVALID, f"model_name: {name} is not supported here")
    raise Refused(_UNKNOWN, f"model {name[:80]} does not exist")


def _undocumented(rules: Mapping[str, Any], body: Mapping[str, Any], at: str) -> Iterator[str]:
    for name, value in body.items():
        if name not in rules:
            yield f"{at}{name}"
        elif isinstance(value, dict):
            yield from _undocumented(rules[name].get("fields", {}), value, f"{at}{name}.")


def _is_number(value: object) -> bool:
    # By comparison, which also holds for integers too large to become a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def _is_url(value: object) -> bool:
    if not isinstance(value, str) or not value.startswith(("http://", "https://")):
        return False
    try:
        return bool(urlsplit(value).hostname)
    except ValueError:
        return False


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_seconds(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _DIGITS


_TYPES: Final[Mapping[str, tuple[Callable[[object], bool], str]]] = {
    "string": (_is_text, "must be a string"),
    "url": (_is_url, "must be an http or https URL"),
    "int": (_is_whole, "must be an integer"),
    "float": (_is_number, "must be a number"),
    "bool": (lambda value: isinstance(value, bool), "must be true or false"),
    "seconds": (_is_seconds, "must be a string of whole seconds"),
    "id": (lambda value: _is_whole(value) or (isinstance(value, str) and value.isdigit()), "must be an id"),
    "object": (lambda value: isinstance(value, dict), "must be an object"),
    "array": (lambda value: isinstance(value, list), "must be an array"),
    "picture": (_is_text, "must be a URL or base64"),
    "sound": (_is_text, "must be base64"),
}


@define
class _Check:
    model: str
    flaw: str = ""
    picture: tuple[int, int] | None = None

    def fields(self, rules: Mapping[str, Any], body: Mapping[str, Any], at: str) -> None:
        for name, rule in rules.items():
            value = body.get(name)
            if is_given(value):
                self._field(rule, value, f"{at}{name}")
            elif rule.get("required"):
                raise Refused(_INVALID, f"{at}{name}: is required")

    def _field(self, rule: Mapping[str, Any], value: Any, path: str) -> None:
        fits, complaint = _TYPES[rule["type"]]
        if not fits(value):
            raise Refused(_INVALID, f"{path}: {complaint}")
        if "models" in rule and self.model not in rule["models"] and not _is_off(value):
            raise Refused(_INVALID, f"{path}: not supported by {self.model}")
        _check_words(rule, value, path)
        self._amount(rule, value, path)
        match rule["type"]:
            case "object":
                self.fields(rule.get("fields", {}), value, f"{path}.")
            case "array":
                self._items(rule, value, path)
            case "picture":
                self._picture(rule, value, path)
            case "sound":
                data = _file(value, path, LIMITS["sound_bytes"])
                if not _pictures.is_sound(data):
                    raise Refused(_INVALID, f"{path}: File is not in a supported format")
            case _:
                pass

    def _amount(self, rule: Mapping[str, Any], value: Any, path: str) -> None:
        if "range" in rule:
            low, high = rule["range"]
            amount = int(value) if isinstance(value, str) else value
            if amount < low or (high is not None and amount > high):
                raise Refused(_INVALID, f"{path}: must be {low} or more" + (f" and {high} or less" if high is not None else ""))
        elif rule["type"] == "seconds" and self.model in MODELS and value not in MODELS[self.model]["seconds"]:
            raise Refused(_INVALID, f"{path}: {self.model} makes {', '.join(MODELS[self.model]['seconds'])} seconds")

    def _items(self, rule: Mapping[str, Any], value: list[Any], path: str) -> None:
        low, high = rule["items"]
        if not low <= len(value) <= high:
            raise Refused(_INVALID, f"{path}: takes {low} to {high} entries, got {len(value)}")
        for index, item in enumerate(value):
            if not isinstance(item, dict):
                raise Refused(_INVALID, f"{path}[{index}]: must be an object")
            self.fields(rule["fields"], item, f"{path}[{index}].")

    def _picture(self, rule: Mapping[str, Any], value: str, path: str) -> None:
        if _is_url(value):
            return  # the service fetches it; this one does not
        data = _file(value, path, LIMITS["picture_bytes"])
        if not _pictures.is_picture(data):
            raise Refused(_INVALID, f"{path}: File is not in a supported format, jpg or png expected")
        pixels = _pictures.size(data)
        if not rule.get("pixels", True):
            return
        flaw = _flaw(pixels, proportions=bool(rule.get("proportions")))
        self.flaw = self.flaw or flaw
        self.picture = self.picture or (None if flaw else pixels)


def _is_off(value: object) -> bool:
    return value is False or value == "off"


def _check_words(rule: Mapping[str, Any], value: Any, path: str) -> None:
    if "one_of" in rule and value not in rule["one_of"]:
        raise Refused(_INVALID, f"{path}: must be one of {', '.join(rule['one_of'])}")
    if rule["type"] == "string" and rule.get("required") and not value.strip():
        raise Refused(_INVALID, f"{path}: is required")
    if "max_length" in rule and len(value) > rule["max_length"]:
        raise Refused(_INVALID, f"{path}: at most {rule['max_length']} characters, got {len(value)}")


def _file(text: str, path: str, limit: int) -> bytes:
    data = _pictures.decode(text)
    if not data:
        raise Refused(_INVALID, f"{path}: File is not in a valid base64 format")
    if len(data) > limit:
        raise Refused(_INVALID, f"{path}: at most {limit} bytes, got {len(data)}")
    return data


def _flaw(pixels: tuple[int, int] | None, *, proportions: bool) -> str:
    if pixels is None or min(pixels) < LIMITS["picture_side"]:
        return "Image pixel is invalid"
    low, high = LIMITS["picture_ratio"]
    if proportions and not low <= pixels[0] / pixels[1] <= high:
        return "The resolution or aspect ratio of the input image is invalid"
    return ""
