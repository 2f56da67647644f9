"""The endpoints that make pictures (`api.md` 3.2, 3.8), one class each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, get_args

from attrs import field, frozen

from kling_async.jobs import _models as models
from kling_async.jobs._base import Fault, Job, Kind, Route, columns
from kling_async.jobs._convert import element_ids, free_picture, picture
from kling_async.jobs._models import ImageModel, TryOnModel
from kling_async.jobs._rules import Flag, Items, Number, Rule, Text, Word
from kling_async.media import Media
from kling_async.models import Image

ImageReference = Literal["subject", "face"]
ImageRatio = Literal["16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9"]
Resolution = Literal["1k", "2k"]


@frozen(kw_only=True, field_transformer=columns)
class GenerateImage(Job[tuple[Image, ...]]):
    """Make pictures from a text, or from a text and a picture.

    Its task yields `n` times `Image`, and takes `n` slots. Source: `api.md` 3.2.
    """

    verb: ClassVar[str] = "generate_image"
    route: ClassVar[Route] = Route(action="images", action2="generations")
    kind: ClassVar[Kind] = "image"
    counted: ClassVar[str] = "n"

    prompt: str = field(validator=Text("What the picture shows: up to 2500 characters.", longest=2500))
    model_name: ImageModel | str | None = field(
        default=None, validator=Word("The model; better said than left to the server.", choices=get_args(ImageModel))
    )
    negative_prompt: str | None = field(
        default=None,
        validator=Text("What the picture must not show: up to 2500 characters; not together with image.", longest=2500, blank=True),
    )
    image: Media | None = field(
        default=None,
        converter=picture,
        validator=Rule("A picture to start from: JPEG or PNG, up to 10 MB, sides from 300 px, ratio up to 2.5."),
    )
    image_reference: ImageReference | str | None = field(
        default=None,
        validator=Word("What to keep of image; kling-v1-5 requires it.", choices=get_args(ImageReference), models=models.IMAGE_REFERENCE),
    )
    image_fidelity: float | None = field(default=None, validator=Number("How closely to follow image, from 0 to 1.", low=0, high=1))
    human_fidelity: float | None = field(default=None, validator=Number("How closely to keep the face, from 0 to 1.", low=0, high=1))
    element_list: tuple[int, ...] | None = field(
        default=None,
        converter=element_ids,
        validator=Items("Ids of elements to show, up to 10 with image counted.", high=10, models=models.ELEMENTS),
    )
    resolution: Resolution | str | None = field(default=None, validator=Word("Size of the picture.", choices=get_args(Resolution)))
    n: int | None = field(default=None, validator=Number("How many pictures, from 1 to 9; each takes a slot.", low=1, high=9, whole=True))
    aspect_ratio: ImageRatio | str | None = field(default=None, validator=Word("Width to height.", choices=get_args(ImageRatio)))
    watermark_info: bool | None = field(default=None, validator=Flag("Whether to make copies with a watermark as well (watermark_url)."))

    def _faults(self) -> Iterator[Fault]:
        yield from super()._faults()
        if self.image is not None and self.negative_prompt is not None:
            yield "negative_prompt", "cannot go with image: give one of them"
        if self.image is None and self.image_reference is not None:
            yield "image", "is required with image_reference"
        if self.image is not None and self.image_reference is None and self.model_name == "kling-v1-5":
            yield "image_reference", "is required with image and kling-v1-5"
        if self.image is None and self.model_name == "kling-v2-new":
            yield "image", "is required with kling-v2-new, which only restyles"
        if self.image is not None and len(self.element_list or ()) > 9:  # noqa: PLR2004  ten in all
            yield "element_list", "has 10 entries, 9 are allowed beside image"
        if self.resolution == "2k" and (self.model_name in {"kling-v1", "kling-v1-5"} or (self.model_name == "kling-v2" and self.image)):
            yield "resolution", f"must be '1k' with {self.model_name}{' and image' if self.image else ''}"
        if self.aspect_ratio == "21:9" and self.model_name == "kling-v1":
            yield "aspect_ratio", "must not be '21:9' with kling-v1"


@frozen(kw_only=True, field_transformer=columns)
class VirtualTryOn(Job[tuple[Image, ...]]):
    """Dress a person in a garment.

    Its task yields one `Image`. A pair of garments that does not fit fails the task. Source: `api.md` 3.8.
    """

    verb: ClassVar[str] = "virtual_try_on"
    route: ClassVar[Route] = Route(action="images", action2="kolors-virtual-try-on")
    kind: ClassVar[Kind] = "try_on"

    model_name: TryOnModel | str | None = field(
        default=None, validator=Word("The model; better said than left to the server.", choices=get_args(TryOnModel))
    )
    human_image: Media = field(converter=free_picture, validator=Rule("The person: JPEG or PNG, up to 10 MB, sides from 300 px."))
    cloth_image: Media = field(
        converter=free_picture,
        validator=Rule("One garment; v1-5 also takes an upper and a lower one in one picture. The same rules as for human_image."),
    )
