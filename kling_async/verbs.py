"""One method per job: the name is the job's verb, the signature is the class's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from kling_async.errors import InvalidJobError
from kling_async.jobs import GenerateImage, Image2Video, Job, LipSync, Text2Video, VideoExtend, VirtualTryOn
from kling_async.tasks import TaskHandle

__all__ = ["Verbs"]

P = ParamSpec("P")
R = TypeVar("R")


def _verb(job_class: Callable[P, Job[R]]) -> Callable[Concatenate[Verbs, P], Coroutine[Any, Any, TaskHandle[R]]]:
    """The method that makes a job of this class and submits it, with the signature of the class."""

    async def verb(self: Verbs, /, *args: P.args, **fields: P.kwargs) -> TaskHandle[R]:
        try:
            job = job_class(*args, **fields)
        except InvalidJobError as error:
            raise error.with_traceback(None) from None
        finally:
            del args, fields  # they show in tracebacks what the repr of a job does not
        return await self.submit(job)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.signature(job_class).replace(return_annotation=TaskHandle)
    verb.__name__ = verb.__qualname__ = getattr(job_class, "verb", verb.__name__)
    verb.__doc__ = job_class.__doc__
    setattr(verb, "__signature__", signature.replace(parameters=[own, *signature.parameters.values()]))  # noqa: B010  functions declare none
    return verb


class Verbs:
    """The verbs, for whoever can submit."""

    generate_image = _verb(GenerateImage)
    text2video = _verb(Text2Video)
    image2video = _verb(Image2Video)
    video_extend = _verb(VideoExtend)
    lip_sync = _verb(LipSync)
    virtual_try_on = _verb(VirtualTryOn)

    async def submit(self, job: Job[R]) -> TaskHandle[R]:
        """Buy the job's task."""
        raise NotImplementedError
