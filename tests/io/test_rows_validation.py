from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field, fields

from kling_async import ALL_JOBS, Image2Video, InvalidJobError, Job, KlingSession, LipSync, TaskHandle, Text2Video, Waiting
from kling_async.jobs import CameraControl
from kling_async.journal import State
from kling_async.media import Blob
from scripted import KEY, PROFILES, Gateway, listening, picture_job, saying, whole

pytestmark = pytest.mark.usefixtures("nothing_is_left")

gateway = pytest.fixture(listening)

URL = "https://cdn.example/a.png"
WORD = "kling-v99 \u00fcbung"
"""Nobody has heard of it yet."""
LEAST: dict[str, dict[str, Any]] = {
    # What each endpoint takes beside an unknown word.
    "generate_image": {"prompt": "a fox", "image": URL},
    "text2video": {"prompt": "a fox"},
    "image2video": {"prompt": "a fox", "image": URL},
    "video_extend": {"video_id": "1"},
    "lip_sync": {"video_id": "1", "text": "hello", "voice_id": "v", "voice_language": "en"},
    "virtual_try_on": {"human_image": URL, "cloth_image": URL},
}
NEEDED: dict[str, dict[str, Any]] = {
    "shot_type": {"multi_shot": True},
    "audio_type": {"mode": "audio2video", "text": None, "voice_id": None, "voice_language": None},
}
OPEN = [(cls, attribute.name) for cls in ALL_JOBS for attribute in fields(cls) if attribute.metadata.get("choices")]
CLOSED: list[tuple[type[Job[Any]], str, Any]] = [
    (Text2Video, "sound", "loud"),
    (Text2Video, "multi_shot", "yes"),
    (Text2Video, "watermark_info", "no"),
    (Text2Video, "cfg_scale", "high"),
    (Text2Video, "duration", "long"),
    (Text2Video, "camera_control", "zoom"),
    (Text2Video, "camera_control", {"speed": 1}),
    (Image2Video, "element_list", ["fox"]),
    (LipSync, "voice_speed", "fast"),
]


@pytest.mark.row("V5")
@pytest.mark.parametrize(("cls", "name"), OPEN)
async def test_unknown_words_pass(gateway: Gateway, cls: type[Job[Any]], name: str) -> None:
    """A word that only the service knows yet, such as the name of a new model, is sent as it was given."""
    given: dict[str, Any] = {**LEAST[cls.verb], **NEEDED.get(name, {}), name: WORD}
    outcome, _ = await gateway.buy(cls(**given, external_task_id=KEY))
    assert isinstance(outcome, TaskHandle)
    sent = json.loads(gateway.clients[0].body)
    assert (sent["input"] if cls is LipSync else sent)[name] == WORD


@pytest.mark.row("V5")
async def test_unknown_words_further_down_pass(gateway: Gateway) -> None:
    """The same inside a field that has fields."""
    await gateway.buy(Text2Video(prompt="a fox", camera_control=CameraControl(type=WORD), external_task_id=KEY))
    assert json.loads(gateway.clients[0].body)["camera_control"] == {"type": WORD}


@pytest.mark.row("V5")
@pytest.mark.parametrize(("cls", "name", "value"), CLOSED)
async def test_what_is_no_word_is_refused(gateway: Gateway, cls: type[Job[Any]], name: str, value: object) -> None:
    """A switch, a number or a structure has no words of its own: the field and its rule are named, and no connection is made."""
    async with KlingSession("sk-x", base_url=gateway.url) as kling:
        with pytest.raises(InvalidJobError) as refused:
            await getattr(kling, cls.verb)(**{**LEAST[cls.verb], name: value})
    assert refused.value.field == name
    assert refused.value.rule
    assert gateway.connections == 0


@pytest.mark.row("V5")
@pytest.mark.parametrize(("cls", "name", "value"), [*CLOSED, (Text2Video, "brand_new", {"a": [None, 1.5, "\u00fc", {"b": True}]})])
async def test_extra_passes_anything(gateway: Gateway, cls: type[Job[Any]], name: str, value: object) -> None:
    """Given as `extra` the same is sent as it is, over what the field itself would say."""
    await gateway.buy(cls(**LEAST[cls.verb], extra={name: value, "prompt": 5}, external_task_id=KEY))
    sent = json.loads(gateway.clients[0].body)
    assert (sent[name], sent["prompt"], sent["external_task_id"]) == (value, 5, KEY)


@define
class Inputs:
    """What a user may hold on to, and change, once a job was made of it."""

    picture: bytearray
    mask: io.BytesIO
    extra: dict[str, Any] = field(factory=lambda: {"new": {"list": [1, 2]}, "name": "before"})
    shot: dict[str, Any] = field(factory=lambda: {"prompt": "a", "duration": 5})
    shots: list[Any] = field(factory=list)

    def job(self) -> Image2Video:
        self.shots.append(self.shot)
        return Image2Video(
            image=self.picture,  # type: ignore[arg-type]  # undeclared, and taken as bytes are
            static_mask=self.mask,
            multi_shot=True,
            shot_type="customize",
            multi_prompt=self.shots,
            extra=self.extra,
            external_task_id=KEY,
        )

    def spoil(self) -> None:
        """Change everything."""
        self.picture[:] = bytes(len(self.picture))
        self.mask.seek(0)
        self.mask.truncate()
        self.extra["new"]["list"].append(3)
        self.extra.update(name="after", other=1)
        self.shot["prompt"] = "b"
        self.shots.append({"prompt": "c", "duration": 5})


def picture() -> bytes:
    """A picture of some kilobytes."""
    image = picture_job(5000).image
    assert isinstance(image, Blob)
    return image.data


def when_sent_again(then: Callable[[], object]) -> Callable[[object], None]:
    """Do something whenever a creation is about to be sent again."""

    def observe(record: object) -> None:
        if isinstance(record, Waiting) and record.why == "retry":
            then()

    return observe


ONCE_MORE = saying(whole(b"", status=425), accept=False)


@pytest.mark.row("J12")
@pytest.mark.parametrize("profile", PROFILES)
async def test_inputs_that_change_between_attempts(gateway: Gateway, profile: str) -> None:
    """Whatever a user does to what a job was made of, the second request is the first, byte by byte, and so is its record."""
    inputs = Inputs(bytearray(picture()), io.BytesIO(picture()))
    _, calm = await gateway.buy(inputs.job(), profile=profile)
    inputs = Inputs(bytearray(picture()), io.BytesIO(picture()))
    gateway.script.append(ONCE_MORE)
    outcome, row = await gateway.buy(inputs.job(), profile=profile, observers=[when_sent_again(inputs.spoil)])
    assert isinstance(outcome, TaskHandle)
    assert inputs.shot["prompt"] == "b", "it was spoilt"
    bodies = [client.body for client in gateway.clients]
    assert bodies == [bodies[0]] * 3
    assert (row.attempt, row.digest, row.request) == (2, calm.digest, calm.request)


@pytest.mark.row("J12")
@pytest.mark.parametrize("profile", PROFILES)
async def test_a_file_that_changes_between_attempts(gateway: Gateway, profile: str, tmp_path: Path) -> None:
    """A file is read when it is sent: one that has changed since the first request is not sent as if it were the same."""
    path = tmp_path / "fox.png"
    path.write_bytes(picture())
    gateway.script.append(ONCE_MORE)
    rewrite = when_sent_again(lambda: path.write_bytes(picture()[:-1] + b"!"))
    outcome, row = await gateway.buy(Image2Video(image=path, prompt="a", external_task_id=KEY), profile=profile, observers=[rewrite])
    assert isinstance(outcome, InvalidJobError)
    assert outcome.field == "image"
    assert (row.attempt, gateway.posts, gateway.tasks) == (1, 1, {})
    assert row.state in {State.WITHDRAWN, State.REJECTED}
