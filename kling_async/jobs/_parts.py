"""Values inside jobs: shots, a camera's move, a brush stroke. Flat here; the codec nests them as the service wants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal, TypeVar, get_args

from attrs import field, frozen

from kling_async.errors import InvalidJobError
from kling_async.jobs._base import Checked, Fault, columns
from kling_async.jobs._convert import listed, mask, points, seconds
from kling_async.jobs._rules import Items, Number, Rule, Text, Word
from kling_async.media import Media

CameraMove = Literal["simple", "down_back", "forward_up", "right_turn_forward", "left_turn_forward"]

_Part = TypeVar("_Part", bound=Checked)


@frozen(kw_only=True, field_transformer=columns)
class MultiShot(Checked):
    """One shot of a clip that consists of several (`multi_prompt` in `api.md` 3.3); its index is its place in the list."""

    home: ClassVar[str] = "multi_prompt[]."

    prompt: str = field(validator=Text("What this shot shows: up to 512 characters.", longest=512))
    duration: int = field(
        converter=seconds, validator=Number("Length of the shot in whole seconds, at least 1.", low=1, high=3600, whole=True)
    )


@frozen(kw_only=True, field_transformer=columns)
class CameraControl(Checked):
    """How the camera moves: one of the named moves, or `simple` along exactly one axis (`camera_control` in `api.md` 3.3).

    Axes go from -10 to 10 and are sent as the service's nested `config`.
    """

    home: ClassVar[str] = "camera_control."

    type: CameraMove | str = field(default="simple", validator=Word("The move; simple goes along one axis.", choices=get_args(CameraMove)))
    horizontal: float | None = field(default=None, validator=Number("Along x: negative is left, positive is right.", low=-10, high=10))
    vertical: float | None = field(default=None, validator=Number("Along y: negative is down, positive is up.", low=-10, high=10))
    pan: float | None = field(default=None, validator=Number("Turn about y: negative is left, positive is right.", low=-10, high=10))
    tilt: float | None = field(default=None, validator=Number("Turn about x: negative is down, positive is up.", low=-10, high=10))
    roll: float | None = field(default=None, validator=Number("Turn about z: negative is counter-clockwise.", low=-10, high=10))
    zoom: float | None = field(default=None, validator=Number("Focal length: negative narrows the view.", low=-10, high=10))

    @property
    def axes(self) -> dict[str, float]:
        """The axes that are said, by name."""
        named = {name: getattr(self, name) for name in ("horizontal", "vertical", "pan", "tilt", "roll", "zoom")}
        return {name: value for name, value in named.items() if value is not None}

    def _faults(self) -> Iterator[Fault]:
        if self.type == "simple" and sum(map(bool, self.axes.values())) != 1:
            yield "config", "needs exactly one axis that is not 0, because type is 'simple'"
        if self.type in get_args(CameraMove)[1:] and self.axes:
            yield "config", f"must have no axes, because type is '{self.type}'"


@frozen(kw_only=True, field_transformer=columns)
class DynamicMask(Checked):
    """A part of the picture and the path it takes (`dynamic_masks` in `api.md` 3.4)."""

    home: ClassVar[str] = "dynamic_masks[]."

    mask: Media = field(converter=mask, validator=Rule("The part that moves: a picture of the same size as `image`."))
    trajectories: tuple[tuple[int, int], ...] = field(
        converter=points,
        validator=Items("The path: 2 to 77 points (x, y) in pixels from the bottom left corner, in order.", low=2, high=77),
    )


def camera(value: CameraControl | Mapping[str, Any] | None) -> CameraControl | None:
    """A camera's move, or its fields."""
    return None if value is None else _made(CameraControl, value)


def shots(value: Iterable[MultiShot | Mapping[str, Any]] | None) -> tuple[MultiShot, ...] | None:
    """Shots, or their fields."""
    return None if value is None else _all_made(MultiShot, value)


def brush(value: Iterable[DynamicMask | Mapping[str, Any]] | None) -> tuple[DynamicMask, ...] | None:
    """Moving parts, or their fields."""
    return None if value is None else _all_made(DynamicMask, value)


def _all_made(cls: type[_Part], value: Iterable[_Part | Mapping[str, Any]]) -> tuple[_Part, ...]:
    made = list[_Part]()
    for index, entry in enumerate(listed(value)):
        try:
            made.append(_made(cls, entry))
        except InvalidJobError as error:
            raise InvalidJobError(error.field.replace("[]", f"[{index}]"), error.rule) from error
        except ValueError as error:
            raise InvalidJobError(cls.home.strip(".").replace("[]", f"[{index}]"), str(error)) from error
    return tuple(made)


def _made(cls: type[_Part], value: _Part | Mapping[str, Any]) -> _Part:
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a {cls.__name__} or a mapping of its fields, not {type(value).__name__}")  # noqa: TRY004  what `columns` gives its name
    try:
        return cls(**value)
    except TypeError as error:
        raise ValueError(f"is no {cls.__name__}: {error}") from error
