"""What all jobs share: a value that refuses to exist when it is wrong, the route, the fields of every endpoint."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final, Generic, Literal, Self, TypeAlias, TypeVar

from attrs import Attribute, evolve, field, fields, frozen

from kling_async._fault import forgetful
from kling_async.errors import InvalidJobError
from kling_async.jobs._convert import frozen_json
from kling_async.jobs._rules import Key, Rule, Url
from kling_async.media import Link

R = TypeVar("R", covariant=True)

Kind = Literal["video", "image", "try_on"]
"""Which of an account's packs a task takes its slots from (`api.md` section 9)."""

Fault: TypeAlias = tuple[str, str]
"""The field that is wrong, and the rule it breaks."""

_LAST: Final = ("callback_url", "external_task_id", "extra")
"""Fields that every endpoint has stand behind its own."""


@frozen(kw_only=True)
class Route:
    """Where a job is posted and its task read: the pair of path parts after the profile's prefix."""

    action: str
    action2: str

    def __str__(self) -> str:
        """As it stands in a path, such as `videos/text2video`."""
        return f"{self.action}/{self.action2}"


def _completed(attribute: Attribute[Any], home: str) -> Attribute[Any]:
    rule: Any = attribute.validator
    convert: Any = attribute.converter
    if attribute.metadata:  # inherited, and complete
        return attribute
    return attribute.evolve(
        metadata={"help": rule.help, "choices": rule.choices, "models": tuple(rule.models)},
        converter=convert and _named(convert, f"{home}{attribute.name}"),
    )


def _named(convert: Callable[[Any], Any], name: str) -> Callable[[Any], Any]:
    @functools.wraps(convert)
    def named(value: Any) -> Any:
        try:
            return convert(value)
        except InvalidJobError:
            raise
        except ValueError as error:
            rule = str(error)
        del value  # a link may be signed, and some tracebacks show locals
        raise InvalidJobError(name, rule)

    return named


def columns(cls: type[Any], attributes: list[Attribute[Any]]) -> list[Attribute[Any]]:
    """Complete a class's fields, as attrs `field_transformer`.

    The rule's facts become metadata (`help`, `choices`, `models`), converters learn to name their field.
    """
    completed = (_completed(attribute, cls.home) for attribute in attributes)
    return sorted(completed, key=lambda attribute: attribute.name in _LAST)


@frozen(kw_only=True)
class Checked:
    """A value that refuses to exist when it is wrong: rows check themselves, `_faults` checks them against each other."""

    home: ClassVar[str] = ""
    """Where its fields are found in a job, such as `camera_control.`."""

    @classmethod
    def __attrs_init_subclass__(cls) -> None:
        """Have its constructor forget what it refuses: links may be signed, and some tracebacks show locals."""
        forgetful(cls)

    def __attrs_post_init__(self) -> None:
        """Raise `InvalidJobError` for the first rule that is broken."""
        for name, rule in self._faults():
            raise InvalidJobError(f"{self.home}{name}", rule)

    def _faults(self) -> Iterator[Fault]:
        return iter(())


@frozen(kw_only=True, field_transformer=columns)
class Job(Checked, Generic[R]):
    """What you ask for: one frozen, typed value per endpoint. `R` is what awaiting its task yields.

    `None` means not said: the field is not sent, and the service does what it does by default.

    Raises:
        InvalidJobError: a field breaks a rule; names both. Nothing was sent.
        TypeError: there is no such field.
    """

    verb: ClassVar[str]
    """The name of the session's method and of the command."""
    route: ClassVar[Route]
    kind: ClassVar[Kind]
    counted: ClassVar[str] = ""
    """The field that says how many tasks it counts as, where that is not one."""

    callback_url: str | None = field(
        default=None,
        repr=False,  # people put secrets into it
        validator=Url("Where the service posts the task whenever its status changes: an absolute http or https URL."),
    )
    external_task_id: str | None = field(
        default=None,
        validator=Key("Your own name for the task, unique in your account: 1 to 128 of A-Z a-z 0-9 . _ : -; made for you when not given."),
    )
    extra: Mapping[str, Any] = field(
        factory=dict,
        converter=frozen_json,
        hash=False,
        validator=Rule("Fields to send as they are, unchecked: JSON values that are laid over all others."),
    )

    def unsigned(self) -> Self:
        """The same without what follows the question mark of its links, and without `extra`: fit to be written down."""
        changes: dict[str, Any] = {"extra": {}}
        for attribute in fields(type(self)):
            value = getattr(self, attribute.name)
            link = value.url if isinstance(value, Link) else value
            if isinstance(link, str) and (isinstance(value, Link) or attribute.name.endswith("_url")):
                changes[attribute.name] = link.partition("?")[0]
        return evolve(self, **changes)

    @property
    def slots(self) -> int:
        """How many tasks it counts as, against the account's limit of tasks at a time."""
        return self.slots_of({self.counted: getattr(self, self.counted, None), **self.extra}) if self.counted else 1

    @classmethod
    def slots_of(cls, request: Mapping[str, Any]) -> int:
        """The same for a request as it was sent."""
        many = request.get(cls.counted) if cls.counted else None
        return many if isinstance(many, int) and many > 0 else 1

    def _faults(self) -> Iterator[Fault]:
        if "external_task_id" in self.extra:
            yield "extra", "must not hold external_task_id: give it as the field, by which a lost task is found again"
        yield from _model_faults(self)


def exclusive(instance: Checked, *names: str) -> Iterator[Fault]:
    """A fault when more than one of the named fields is given."""
    given = [name for name in names if getattr(instance, name) is not None]
    if len(given) > 1:
        yield given[-1], f"cannot go with {' and '.join(given[:-1])}: give one of them"


def _model_faults(job: Job[Any]) -> Iterator[Fault]:
    """Fields that the job's model is known not to take, or not in the job's mode."""
    model = getattr(job, "model_name", None)
    if model is None:
        return
    kind: Any = type(job)
    rules = _rules(kind)
    if model not in rules["model_name"].choices:
        return
    # Not said is `std` (`api.md` 3.3); a mode that nobody knows yet may be able to do anything.
    mode = getattr(job, "mode", None) or "std"
    for name, rule in rules.items():
        if not rule.models or (value := getattr(job, name)) is None or value is False:
            continue
        modes = rule.models.get(model)
        if modes is None:
            yield name, f"is not for {model}, only for {', '.join(rule.models)}"
        elif modes and mode in {"std", "pro"} and mode not in modes:
            yield name, f"needs mode={' or '.join(map(repr, modes))} with {model}"


@functools.cache
def _rules(cls: type[Job[Any]]) -> dict[str, Any]:
    return {attribute.name: attribute.validator for attribute in fields(cls)}
