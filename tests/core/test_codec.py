"""`_codec`: the service's wire forms out, anything that resembles a result in."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async._codec import decode, decode_entries, encode, has_local_media, sealed, to_body, to_canonical_json
from kling_async.errors import InvalidJobError, ProtocolError
from kling_async.jobs import (
    CameraControl,
    DynamicMask,
    GenerateImage,
    Image2Video,
    Job,
    LipSync,
    MultiShot,
    Text2Video,
    VideoExtend,
    VirtualTryOn,
)
from kling_async.media import MediaLike
from kling_async.models import Audio, Image, ParentVideo, Video

PICTURE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (640).to_bytes(4, "big") + (480).to_bytes(4, "big") + bytes(60)
SOUND = b"ID3\4" + bytes(60)
URL = "https://cdn.example/a.png?x=1&y=2"
BASE64 = base64.b64encode(PICTURE).decode()

FORMS: list[tuple[Job[Any], dict[str, Any]]] = [
    (
        GenerateImage(
            prompt="a fox", model_name="kling-v3", n=9, resolution="2k", aspect_ratio="21:9", element_list=["867283741759111202"], image=URL
        ),
        {
            "prompt": "a fox",
            "model_name": "kling-v3",
            "n": 9,
            "resolution": "2k",
            "aspect_ratio": "21:9",
            "element_list": [{"element_id": 867283741759111202}],
            "image": URL,
        },
    ),
    (
        Text2Video(prompt="a fox", duration=5.0, sound=False, cfg_scale=0, watermark_info=True, callback_url="https://me.example/h"),
        {
            "prompt": "a fox",
            "duration": "5",
            "sound": "off",
            "cfg_scale": 0,
            "watermark_info": {"enabled": True},
            "callback_url": "https://me.example/h",
        },
    ),
    (
        Text2Video(
            multi_shot=True, shot_type="customize", multi_prompt=[MultiShot(prompt="a", duration="2"), MultiShot(prompt="b", duration=3)]
        ),
        {
            "multi_shot": True,
            "shot_type": "customize",
            "multi_prompt": [{"index": 1, "prompt": "a", "duration": "2"}, {"index": 2, "prompt": "b", "duration": "3"}],
        },
    ),
    (
        Text2Video(prompt="x", camera_control=CameraControl(zoom=-3.5, pan=0)),
        {"prompt": "x", "camera_control": {"type": "simple", "config": {"pan": 0, "zoom": -3.5}}},
    ),
    (Text2Video(prompt="x", camera_control=CameraControl(type="down_back")), {"prompt": "x", "camera_control": {"type": "down_back"}}),
    (
        Image2Video(
            prompt="x", image=PICTURE, dynamic_masks=[DynamicMask(mask=PICTURE, trajectories=[(0, 1), (2, 3)])], static_mask=BASE64
        ),
        {
            "prompt": "x",
            "image": BASE64,
            "static_mask": BASE64,
            "dynamic_masks": [{"mask": BASE64, "trajectories": [{"x": 0, "y": 1}, {"x": 2, "y": 3}]}],
        },
    ),
    (
        Image2Video(prompt="<<<voice_1>>>", image=URL, voice_list=["v"], sound=True),
        {"prompt": "<<<voice_1>>>", "image": URL, "voice_list": [{"voice_id": "v"}], "sound": "on"},
    ),
    (VideoExtend(video_id="1", task_id="2"), {"video_id": "1", "task_id": "2"}),
    (
        LipSync(video_id="1", text="hi", voice_id="uk_boy1", voice_language="en", voice_speed=1.1, callback_url="https://me.example/h"),
        {
            "callback_url": "https://me.example/h",
            "input": {
                "video_id": "1",
                "mode": "text2video",
                "text": "hi",
                "voice_id": "uk_boy1",
                "voice_language": "en",
                "voice_speed": 1.1,
            },
        },
    ),
    (
        LipSync(video_url=URL, audio_file=SOUND),
        {"input": {"video_url": URL, "mode": "audio2video", "audio_type": "file", "audio_file": base64.b64encode(SOUND).decode()}},
    ),
    (VirtualTryOn(human_image=URL, cloth_image=PICTURE), {"human_image": URL, "cloth_image": BASE64}),
]


def sent(body: dict[str, Any]) -> bytes:
    """The bytes that an encoded job becomes."""
    return b"".join(to_body(sealed(body)).steps())


@pytest.mark.parametrize(("job", "body"), FORMS, ids=lambda value: type(value).__name__)
def test_jobs_are_sent_in_the_service_s_forms(job: Job[Any], body: dict[str, Any]) -> None:
    """Names, nesting and types are those of the API tables; what was not said is not sent; the key stands on top."""
    assert json.loads(sent(encode(job, external_task_id="ka-1"))) == {**body, "external_task_id": "ka-1"}


def test_the_given_key_is_the_one_that_is_sent() -> None:
    """The caller of `encode` decides, as he is the one who writes it down."""
    assert encode(Text2Video(prompt="x", external_task_id="mine"), external_task_id="ka-1")["external_task_id"] == "ka-1"


def test_extra_is_laid_over_everything() -> None:
    """Unknown fields are added, known ones replaced, whatever their rules say; in a lip-sync also inside `input`."""
    job = Text2Video(prompt="x", duration=5, extra={"duration": 42, "negative_prompt": None, "seed": [1]})
    assert encode(job, external_task_id="k") == {
        "prompt": "x",
        "duration": 42,
        "negative_prompt": None,
        "seed": [1],
        "external_task_id": "k",
    }
    sync = LipSync(video_id="1", audio_url=URL, extra={"input": {"video_id": "2", "seed": 3}, "top": 4})
    assert encode(sync, external_task_id="k") == {
        "input": {"video_id": "2", "mode": "audio2video", "audio_type": "url", "audio_url": URL, "seed": 3},
        "top": 4,
        "external_task_id": "k",
    }
    assert encode(LipSync(video_id="1", audio_url=URL, extra={"input": None}), external_task_id="k")["input"] is None


def test_local_media_are_announced() -> None:
    """Whoever sends can tell beforehand whether there is work for a thread."""
    mask = DynamicMask(mask=PICTURE, trajectories=[(0, 1), (2, 3)])
    assert has_local_media(encode(Image2Video(prompt="x", image=URL, dynamic_masks=[mask]), external_task_id="k"))
    assert has_local_media(encode(LipSync(video_id="1", audio_file=SOUND), external_task_id="k"))
    assert not has_local_media(encode(Image2Video(prompt="x", image=URL, extra={"a": [{"b": None}]}), external_task_id="k"))


def test_bytes_are_compact_utf_8() -> None:
    """Text goes out as it is, without blanks between tokens."""
    assert sent(encode(Text2Video(prompt="狐狸 🦊"), external_task_id="k")) == '{"prompt":"狐狸 🦊","external_task_id":"k"}'.encode()


def test_body_is_the_json_of_the_same_with_base64(tmp_path: Path) -> None:
    """Wherever media stand, the bytes are those that `json.dumps` makes of the same with base64 in their place."""
    (tmp_path / "a.png").write_bytes(PICTURE)
    brush = [DynamicMask(mask=tmp_path / "a.png", trajectories=[(0, 1), (2, 3)]), DynamicMask(mask=PICTURE, trajectories=[(0, 1), (2, 3)])]
    pictures: tuple[MediaLike, ...] = (PICTURE, tmp_path / "a.png", URL)
    for picture in pictures:
        job = Image2Video(prompt='"\\狐狸', image=picture, dynamic_masks=brush, static_mask=PICTURE, extra={"last": "\\ud800"})
        body = encode(job, external_task_id="k")
        plain = body | {"image": URL if picture == URL else BASE64, "static_mask": BASE64}
        plain["dynamic_masks"] = [mask | {"mask": BASE64} for mask in body["dynamic_masks"]]
        data = json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()
        assert sent(body) == data
        assert to_body(sealed(body)).size == len(data)


def test_requests_are_told_apart_by_what_they_ask_for(tmp_path: Path) -> None:
    """The text for the journal has the digest of the base64 in a picture's place, from a file as from bytes, and not the key."""
    (tmp_path / "a.png").write_bytes(PICTURE)
    expected = f'{{"image":"sha256:{hashlib.sha256(BASE64.encode()).hexdigest()}","prompt":"x"}}'
    pictures: tuple[MediaLike, ...] = (PICTURE, tmp_path / "a.png", BASE64)
    for number, picture in enumerate(pictures):
        body = sealed(encode(Image2Video(prompt="x", image=picture), external_task_id=f"k{number}"))
        assert to_canonical_json(body) == expected


def test_vanished_file_is_named_by_its_field(tmp_path: Path) -> None:
    """A file that went away between making and sending a job is the job's fault, and the field is named."""
    path = tmp_path / "a.png"
    path.write_bytes(PICTURE)
    first = encode(Image2Video(prompt="x", image=path), external_task_id="k")
    nested = encode(
        Image2Video(prompt="x", image=URL, dynamic_masks=[DynamicMask(mask=path, trajectories=[(0, 1), (2, 3)])]), external_task_id="k"
    )
    assert json.loads(sent(first))["image"] == BASE64
    path.unlink()
    for body, field in ((first, "image"), (nested, "dynamic_masks[0].mask")):
        with pytest.raises(InvalidJobError, match="cannot be read") as caught:
            sealed(body)
        assert caught.value.field == field


def test_complete_entries_are_read() -> None:
    """The documented shapes (`api.md` 2.3) become values; seconds become numbers, never truncated."""
    video = {"id": "1", "url": URL, "duration": "5.041", "watermark_url": "https://w.example", "session_id": "9"}
    assert decode(video, Video) == Video(id="1", url=URL, duration=5.041, watermark_url="https://w.example")
    assert decode({"index": 3, "url": URL}, Image) == Image(index=3, url=URL)
    assert decode({"id": "1", "url": URL, "duration": "3.5"}, Audio) == Audio(id="1", url=URL, duration=3.5)
    sound = {"id": "1", "url_mp3": "https://m.example", "url_wav": "https://w.example", "duration_mp3": "", "duration_wav": "3"}
    assert decode(sound, Audio) == Audio(id="1", url="https://m.example", duration=3.0, url_wav="https://w.example")
    assert decode({"id": "1", "url_wav": "https://w.example"}, Audio) == Audio(id="1", url="https://w.example", url_wav="https://w.example")
    assert decode({"id": "1", "url": URL, "duration": "5"}, ParentVideo) == ParentVideo(id="1", url=URL, duration=5.0)
    assert decode({}, ParentVideo) == ParentVideo(id="")


@pytest.mark.parametrize(("duration", "seconds"), [("5", 5.0), (5, 5.0), (5.1, 5.1), ("5.0", 5.0), (" 7 ", 7.0)])
def test_durations_come_as_text_or_number(duration: object, seconds: float) -> None:
    """Both spellings are seconds."""
    assert decode({"id": "1", "url": URL, "duration": duration}, Video).duration == seconds


@pytest.mark.parametrize("odd", [None, "", "5s", "nan", "inf", "-1", -1, math.nan, math.inf, 10**400, True, [], {}, "9" * 5000])
def test_odd_durations_are_unknown(odd: object) -> None:
    """What is no length of a clip is `None`, not an error."""
    assert decode({"id": "1", "url": URL, "duration": odd}, Video).duration is None


@pytest.mark.parametrize(
    ("given", "id_"), [("1", "1"), (867283741759111202, "867283741759111202"), (None, ""), (True, ""), (1.5, ""), ([], ""), (10**50, "")]
)
def test_ids_are_text(given: object, id_: str) -> None:
    """Numbers become text digit by digit; anything else is no id."""
    assert decode({"id": given, "url": URL}, Video).id == id_


@pytest.mark.parametrize("odd", [None, "", 5, [], {}, True])
def test_odd_optional_links_are_none(odd: object) -> None:
    """An optional link is text or nothing."""
    assert decode({"id": "1", "url": URL, "watermark_url": odd}, Video).watermark_url is None
    assert decode({"id": "1", "url": odd}, ParentVideo).url is None


@pytest.mark.parametrize("type_", [Video, Image, Audio])
@pytest.mark.parametrize("data", [{}, {"url": None}, {"url": ""}, {"url": " "}, {"url": 5}, {"url": ["x"]}])
def test_entry_without_a_link_is_a_protocol_error(type_: type[Any], data: dict[str, Any]) -> None:
    """There is nothing to have without a link, and the error says where it is missing."""
    with pytest.raises(ProtocolError) as caught:
        decode(data, type_)
    assert caught.value.path == "url"


@pytest.mark.parametrize("data", [None, 5, "x", [], ["x"]])
def test_entry_that_is_no_object_is_a_protocol_error(data: object) -> None:
    """Whatever else it is, it is not taken apart."""
    with pytest.raises(ProtocolError, match="expected a video"):
        decode(data, Video)


def test_numbers_beyond_all_digits_are_no_ids_and_no_entries() -> None:
    """An integer so long that Python refuses to show it does no harm."""
    assert decode({"id": 10**5000, "url": URL, "duration": 10**5000}, Video) == Video(id="", url=URL)
    with pytest.raises(ProtocolError):
        decode(10**5000, Video)


def test_half_characters_do_not_spread() -> None:
    """A lone surrogate in a reply is replaced, so that ids and links can be logged and stored."""
    video = decode({"id": "\ud800", "url": "https://a.example/\udfff"}, Video)
    assert (video.id, video.url) == ("?", "https://a.example/?")


def test_entries_keep_their_order_and_count_by_position() -> None:
    """Pictures without a usable index are numbered by where they stand; entries without a link are left out."""
    given = [
        {"url": URL},
        {"url": URL, "index": "7"},
        {"url": None},
        None,
        "x",
        {"url": URL, "index": -1},
        {"url": URL, "index": "9" * 5000},
    ]
    assert [image.index for image in decode_entries(given, Image)] == [0, 7, 5, 6]
    assert decode_entries([{"id": "", "url": URL}], Image) == (Image(index=0, url=URL),)


def test_results_that_are_not_there_are_empty() -> None:
    """Missing, null and empty results are no entries; a single object is one."""
    nothings: list[Any] = [None, [], {}, [None], [{}]]
    for nothing in nothings:
        assert decode_entries(nothing, Video) == ()
    assert decode_entries({"id": "1", "url": URL}, Video) == (Video(id="1", url=URL),)


@pytest.mark.parametrize("data", ["x", 5, True])
def test_results_of_another_kind_are_protocol_errors(data: object) -> None:
    """Text and numbers are no results."""
    with pytest.raises(ProtocolError, match="list of videos"):
        decode_entries(data, Video)


def test_results_are_bounded() -> None:
    """An absurdly long list is not taken in whole."""
    assert len(decode_entries([{"url": URL}] * 5000, Image)) == 1000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())) | st.just(URL),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["id", "url", "index", "duration", "url_mp3", "x"]), inner, max_size=5)
    ),
    max_leaves=12,
)


@given(JSON, st.sampled_from([Video, Image, Audio, ParentVideo]))
def test_no_json_breaks_the_decoder(data: object, type_: type[Any]) -> None:
    """For any JSON the answer is values that can be encoded, or a `ProtocolError`."""
    for read in (decode, decode_entries):
        try:
            found = read(data, type_)
        except ProtocolError:
            continue
        for entry in found if isinstance(found, tuple) else (found,):
            assert isinstance(entry, type_)
            assert repr(entry).encode()
