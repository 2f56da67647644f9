"""The API's facts as data: `facts.json` read once into typed values. Nothing here is learnt from the client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final

from attrs import field, frozen


@frozen(kw_only=True)
class Endpoint:
    """What is known of one creation endpoint."""

    seconds: float = 60.0
    """How long a task takes on average."""
    external_lookup: bool = False
    """Whether the official service finds its tasks by `external_task_id` too."""
    models: tuple[str, ...] = field(default=(), converter=tuple)
    """Every model it takes; empty when it has no `model_name`."""
    default_model: str = ""
    fields: Mapping[str, Any]
    """A rule for each documented field, as in `facts.json`."""


@frozen(kw_only=True)
class Refusal:
    """The service saying no to a request: nothing was bought."""

    code: int
    message: str

    @property
    def http(self) -> int:
        """The HTTP status that goes with the code."""
        return int(CODES[self.code]["http"])

    @classmethod
    def standard(cls, code: int) -> Refusal:
        """The refusal in the service's usual words."""
        return cls(code=code, message=str(CODES[code]["message"]))


class Refused(Exception):  # noqa: N818  not a failure of this program, but its answer
    """Carries a refusal out of a check."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.refusal: Final = Refusal(code=code, message=message)


_RAW: Final[dict[str, Any]] = json.loads(resources.files("kling_async.emulator").joinpath("facts.json").read_text(encoding="utf-8"))

CODES: Final[Mapping[int, Mapping[str, Any]]] = {int(code): row for code, row in _RAW["codes"].items()}
"""Service code → HTTP status and usual text."""
LIMITS: Final[Mapping[str, Any]] = _RAW["limits"]
SLOTS: Final[Mapping[str, int]] = _RAW["slots"]
"""Tasks of one kind that run at once."""
MODELS: Final[Mapping[str, Mapping[str, Any]]] = _RAW["models"]
"""Video model → the lengths it makes, whether its clips can be extended, the modes that give 1080 lines."""
DAY: Final = 86_400.0

_ENDPOINTS: Final = {route: Endpoint(**row) for route, row in _RAW["endpoints"].items()}
_UNDOCUMENTED: Final = Endpoint(fields={})
_EVERY_MODEL: Final = frozenset(model for endpoint in _ENDPOINTS.values() for model in endpoint.models)


def endpoint_of(route: str) -> Endpoint:
    """The facts of `videos/text2video` and its like; a route without facts takes any fields."""
    return _ENDPOINTS.get(route, _UNDOCUMENTED)


def model_exists(model: str) -> bool:
    """Whether any endpoint takes the model."""
    return model in _EVERY_MODEL
