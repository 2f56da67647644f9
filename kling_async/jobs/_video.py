"""The endpoints that make clips (`api.md` 3.3, 3.4, 3.5, 3.7), one class each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final, Literal, Self, get_args

from attrs import field, frozen

from kling_async._fault import quiet
from kling_async.jobs import _chain as chain
from kling_async.jobs import _models as models
from kling_async.jobs._base import Fault, Job, Kind, R, Route, columns, exclusive
from kling_async.jobs._convert import element_ids, on_off, optional_mask, optional_seconds, picture, sound, voice_ids
from kling_async.jobs._models import Image2VideoModel, Text2VideoModel
from kling_async.jobs._parts import CameraControl, DynamicMask, MultiShot, brush, camera, shots
from kling_async.jobs._rules import Flag, Items, Number, Rule, Text, Url, Word
from kling_async.media import Blob, File, Media, MediaLike, without_query
from kling_async.models import ParentVideo, Video

Mode = Literal["std", "pro"]
ShotType = Literal["customize", "intelligence"]
VideoRatio = Literal["16:9", "9:16", "1:1"]
LipSyncMode = Literal["text2video", "audio2video"]
AudioType = Literal["file", "url"]
VoiceLanguage = Literal["zh", "en"]

_DEFAULT_SECONDS: Final = 5
"""What the service makes when `duration` is not said (`api.md` 3.3)."""


@frozen(kw_only=True, field_transformer=columns)
class _Clip(Job[R]):
    """The rows that Text2Video and Image2Video have in common."""

    kind: ClassVar[Kind] = "video"

    model_name: Image2VideoModel | str | None = field(
        default=None, validator=Word("The model; better said than left to the server.", choices=get_args(Image2VideoModel))
    )
    prompt: str | None = field(
        default=None,
        validator=Text("What the clip shows: up to 2500 characters; may be left out only with shot_type customize.", longest=2500),
    )
    negative_prompt: str | None = field(
        default=None, validator=Text("What the clip must not show: up to 2500 characters.", longest=2500, blank=True)
    )
    multi_shot: bool | None = field(default=None, validator=Flag("Whether the clip consists of several shots.", models=models.SHOTS))
    shot_type: ShotType | str | None = field(
        default=None,
        validator=Word("Who divides the clip into shots: you (customize) or the service.", choices=get_args(ShotType), models=models.SHOTS),
    )
    multi_prompt: tuple[MultiShot, ...] | None = field(
        default=None,
        converter=shots,
        validator=Items("The shots, 1 to 6; together as long as the clip.", low=1, high=6, models=models.SHOTS),
    )
    sound: bool | None = field(default=None, converter=on_off, validator=Flag("Whether the clip has sound.", models=models.SOUND))
    cfg_scale: float | None = field(
        default=None,
        validator=Number("How closely to follow the prompt, from 0 (freely) to 1.", low=0, high=1, models=models.CFG_SCALE),
    )
    mode: Mode | str | None = field(default=None, validator=Word("Quality: std is cheaper, pro is better.", choices=get_args(Mode)))
    camera_control: CameraControl | None = field(
        default=None, converter=camera, validator=Rule("How the camera moves; clips of 5 seconds only.", models=models.CAMERA)
    )
    duration: int | None = field(
        default=None,
        converter=optional_seconds,
        validator=Number("Length in whole seconds: 3 to 15 with kling-v3, 5 or 10 with older models.", low=1, high=3600, whole=True),
    )
    watermark_info: bool | None = field(default=None, validator=Flag("Whether to make a copy with a watermark as well (watermark_url)."))

    def _faults(self) -> Iterator[Fault]:
        yield from super()._faults()
        if self.prompt is None and not (self.multi_shot and self.shot_type == "customize"):
            yield "prompt", "is required, unless multi_shot is True and shot_type is 'customize'"
        lengths = models.durations(self.model_name)
        if self.duration is not None and lengths is not None and self.duration not in lengths:
            words = "5 or 10" if lengths == (5, 10) else f"from {lengths[0]} to {lengths[-1]}"
            yield "duration", f"must be {words} seconds{f' with {self.model_name}' if self.model_name else ''}, not {self.duration}"
        if self.camera_control is not None:
            yield from self._five_seconds("camera_control")
            if self.model_name == "kling-v1-5" and self.camera_control.type != "simple":
                yield "camera_control.type", "must be 'simple' with kling-v1-5"
        yield from self._shot_faults()

    def _shot_faults(self) -> Iterator[Fault]:
        if not self.multi_shot:
            for name in ("shot_type", "multi_prompt"):
                if getattr(self, name) is not None:
                    yield name, "needs multi_shot=True, without which the service ignores it"
        elif self.shot_type is None:
            yield "shot_type", "is required with multi_shot"
        elif self.shot_type == "customize" and self.multi_prompt is None:
            yield "multi_prompt", "is required with shot_type 'customize'"
        if self.multi_prompt is not None:
            total, length = sum(shot.duration for shot in self.multi_prompt), self.duration or _DEFAULT_SECONDS
            if total != length:
                why = "" if self.duration else ", as duration is not said"
                yield "multi_prompt", f"lasts {total} seconds in all, and the clip {length}{why}"

    def _five_seconds(self, name: str) -> Iterator[Fault]:
        if self.duration not in {None, 5}:
            yield name, f"works with a duration of 5 seconds only, not {self.duration}"


@frozen(kw_only=True, field_transformer=columns)
class Text2Video(_Clip[tuple[Video, ...]]):
    """Make a clip from a text.

    Its task yields one `Video`. Source: `api.md` 3.3.
    """

    verb: ClassVar[str] = "text2video"
    route: ClassVar[Route] = Route(action="videos", action2="text2video")

    model_name: Text2VideoModel | str | None = field(
        default=None, validator=Word("The model; better said than left to the server.", choices=get_args(Text2VideoModel))
    )
    aspect_ratio: VideoRatio | str | None = field(
        default=None,
        validator=Word("Width to height; better said, because gateways differ in what they take otherwise.", choices=get_args(VideoRatio)),
    )


@frozen(kw_only=True, field_transformer=columns)
class Image2Video(_Clip[tuple[Video, ...]]):
    """Make a clip from a picture and a text.

    The clip has the ratio of the picture. Its task yields one `Video`. Source: `api.md` 3.4.
    """

    verb: ClassVar[str] = "image2video"
    route: ClassVar[Route] = Route(action="videos", action2="image2video")

    image: Media | None = field(
        default=None,
        converter=picture,
        validator=Rule("The first frame: JPEG or PNG, up to 10 MB, sides from 300 px, ratio up to 2.5; gateways require it."),
    )
    image_tail: Media | None = field(
        default=None, converter=picture, validator=Rule("The last frame; the same rules as for image.", models=models.END_FRAME)
    )
    element_list: tuple[int, ...] | None = field(
        default=None, converter=element_ids, validator=Items("Ids of elements to show, up to 3.", high=3, models=models.ELEMENTS)
    )
    voice_list: tuple[str, ...] | None = field(
        default=None,
        converter=voice_ids,
        validator=Items("Ids of voices, up to 2, spoken where the prompt says <<<voice_1>>>; needs sound.", high=2, models=models.VOICES),
    )
    static_mask: Media | None = field(
        default=None,
        converter=optional_mask,
        validator=Rule("What must not move: a picture of the same size as image.", models=models.BRUSH),
    )
    dynamic_masks: tuple[DynamicMask, ...] | None = field(
        default=None,
        converter=brush,
        validator=Items("What moves, and where to, up to 6 parts; clips of 5 seconds only.", high=6, models=models.BRUSH),
    )

    def _faults(self) -> Iterator[Fault]:
        yield from super()._faults()
        if self.image is None and self.image_tail is None:
            yield "image", "is required, or image_tail"
        yield from exclusive(self, "image_tail", "dynamic_masks", "camera_control")
        yield from exclusive(self, "image_tail", "static_mask", "camera_control")
        yield from exclusive(self, "element_list", "voice_list")
        for name in ("static_mask", "dynamic_masks"):
            if getattr(self, name) is not None:
                yield from self._five_seconds(name)
        if self.voice_list and not self.sound:
            yield "voice_list", "needs sound=True"
        if self.voice_list and "<<<voice_1>>>" not in (self.prompt or ""):
            yield "voice_list", "needs <<<voice_1>>> in the prompt, where the voice is to speak"
        if self.image_tail is not None:
            yield from self._end_frame_faults()

    def _end_frame_faults(self) -> Iterator[Fault]:
        if self.multi_shot:
            yield "image_tail", "cannot go with multi_shot"
        if self.model_name == "kling-v2-6" and self.sound:
            yield "image_tail", "cannot go with sound with kling-v2-6"
        if self.model_name == "kling-v1":
            yield from self._five_seconds("image_tail")
        if self.image is None and self.model_name in get_args(Image2VideoModel) and self.model_name not in models.END_FRAME_ALONE:
            yield "image", f"is required beside image_tail with {self.model_name}"


@frozen(kw_only=True, field_transformer=columns)
class VideoExtend(Job[tuple[Video, ...]]):
    """Make a clip 4 to 5 seconds longer.

    Model and mode follow the clip, which was made by `kling-v1`, `v1-5` or `v1-6` in the last 30 days and ends up
    with at most 180 seconds. Its task yields one `Video`, whose `duration` is the new total. Source: `api.md` 3.5.
    """

    verb: ClassVar[str] = "video_extend"
    route: ClassVar[Route] = Route(action="videos", action2="video-extend")
    kind: ClassVar[Kind] = "video"

    task_id: str | None = field(default=None, validator=Word("Id of the task that made the clip; some gateways require it."))
    video_id: str = field(validator=Word("Id of the clip (Video.id, not the task's id)."))
    prompt: str | None = field(default=None, validator=Text("How it goes on: up to 2500 characters.", longest=2500))
    negative_prompt: str | None = field(
        default=None, validator=Text("What must not be seen: up to 2500 characters; kling-v1 ignores it.", longest=2500, blank=True)
    )
    cfg_scale: float | None = field(
        default=None, validator=Number("How closely to follow the prompt, from 0 to 1; kling-v1 ignores it.", low=0, high=1)
    )
    watermark_info: bool | None = field(default=None, validator=Flag("Whether to make a copy with a watermark as well (watermark_url)."))

    @classmethod
    @quiet
    def of(
        cls,
        video: Video | ParentVideo,
        *,
        task: chain.TaskLike | None = None,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        cfg_scale: float | None = None,
        watermark_info: bool | None = None,
        callback_url: str | None = None,
        external_task_id: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make `video`, an entry of a result, longer.

        `task` is what made the clip, as handle, reference, snapshot or text: a clip does not know it, and some gateways ask for it.

        Raises:
            InvalidJobError: the clip has no id, or a field breaks a rule.
        """
        return cls(
            video_id=chain.video_id(video),
            task_id=chain.task_id(task),
            prompt=prompt,
            negative_prompt=negative_prompt,
            cfg_scale=cfg_scale,
            watermark_info=watermark_info,
            callback_url=callback_url,
            external_task_id=external_task_id,
            extra=extra or {},
        )


@frozen(kw_only=True, field_transformer=columns)
class LipSync(Job[tuple[Video, ...]]):
    """Make the face in a clip speak a text or a recording.

    The clip is one of the service's own (`video_id`, 5 or 10 seconds, at most 30 days old) or any MP4 or MOV (`video_url`,
    2 to 10 seconds, 720p or 1080p, up to 100 MB). Its task yields one `Video`. Source: `api.md` 3.7.
    """

    verb: ClassVar[str] = "lip_sync"
    route: ClassVar[Route] = Route(action="videos", action2="lip-sync")
    kind: ClassVar[Kind] = "video"

    task_id: str | None = field(default=None, validator=Word("Id of the task that made the clip; some gateways require it."))
    video_id: str | None = field(default=None, validator=Word("Id of the clip (Video.id, not the task's id)."))
    video_url: str | None = field(default=None, repr=without_query, validator=Url("URL of the clip, instead of video_id."))
    mode: LipSyncMode | str | None = field(
        default=None,
        validator=Word("Whether a text or a recording is spoken; follows from other fields if not said.", choices=get_args(LipSyncMode)),
    )
    text: str | None = field(default=None, validator=Text("What is said: up to 120 characters.", longest=120))
    voice_id: str | None = field(default=None, validator=Word("Who says it: one of the service's voices."))
    voice_language: VoiceLanguage | str | None = field(
        default=None, validator=Word("The language of the text.", choices=get_args(VoiceLanguage))
    )
    voice_speed: float | None = field(default=None, validator=Number("Speed, from 0.8 to 2.0 in steps of 0.1.", low=0.8, high=2))
    audio_type: AudioType | str | None = field(
        default=None, validator=Word("How the recording is given; follows from other fields if not said.", choices=get_args(AudioType))
    )
    audio_file: Blob | File | None = field(
        default=None, converter=sound, validator=Rule("The recording: MP3, WAV, M4A or AAC, 2 to 60 seconds, up to 5 MB.")
    )
    audio_url: str | None = field(default=None, repr=without_query, validator=Url("URL of the recording, instead of audio_file."))

    @classmethod
    @quiet
    def of(
        cls,
        video: Video | ParentVideo,
        *,
        task: chain.TaskLike | None = None,
        text: str | None = None,
        voice_id: str | None = None,
        voice_language: VoiceLanguage | str | None = None,
        voice_speed: float | None = None,
        audio_file: MediaLike | None = None,
        audio_url: str | None = None,
        callback_url: str | None = None,
        external_task_id: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make the face in `video`, an entry of a result, speak; `task` is what made it, as in `VideoExtend.of` (`api.md` 3.7).

        Raises:
            InvalidJobError: the clip has no id, or a field breaks a rule.
        """
        return cls(
            video_id=chain.video_id(video),
            task_id=chain.task_id(task),
            text=text,
            voice_id=voice_id,
            voice_language=voice_language,
            voice_speed=voice_speed,
            audio_file=audio_file,
            audio_url=audio_url,
            callback_url=callback_url,
            external_task_id=external_task_id,
            extra=extra or {},
        )

    def __attrs_post_init__(self) -> None:
        """Say what follows from the fields given."""
        if self.audio_type is None and (self.audio_file is None) != (self.audio_url is None):
            object.__setattr__(self, "audio_type", "url" if self.audio_file is None else "file")
        if self.mode is None and (self.text is None) != (self.audio_type is None):
            object.__setattr__(self, "mode", "audio2video" if self.text is None else "text2video")
        super().__attrs_post_init__()

    def _faults(self) -> Iterator[Fault]:
        yield from super()._faults()
        if (self.video_id is None) == (self.video_url is None):
            yield "video_id", "exactly one of video_id and video_url is required"
        yield from exclusive(self, "audio_file", "audio_url")
        if self.mode is None:
            yield "mode", "either a text or a recording (audio_file or audio_url) is required, not both"
        if self.voice_speed is not None and round(self.voice_speed, 1) != self.voice_speed:
            yield "voice_speed", "may have one decimal"
        spoken, recorded = ("text", "voice_id", "voice_language"), ("audio_type", "audio_file", "audio_url")
        if self.mode == "text2video":
            yield from self._required(*spoken)
            yield from self._excluded(*recorded)
        elif self.mode == "audio2video":
            yield from self._excluded(*spoken, "voice_speed")
            yield from self._required("audio_type")
            if self.audio_type in get_args(AudioType):
                yield from self._required(f"audio_{self.audio_type}")

    def _required(self, *names: str) -> Iterator[Fault]:
        yield from ((name, f"is required with mode {self.mode}") for name in names if getattr(self, name) is None)

    def _excluded(self, *names: str) -> Iterator[Fault]:
        yield from ((name, f"is not for mode {self.mode}") for name in names if getattr(self, name) is not None)
