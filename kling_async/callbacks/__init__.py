"""Receive `callback_url` posts, in aiohttp.web or any ASGI app. A post only ever means "look now"."""

from kling_async._wire import callback_snapshot as decode
from kling_async.callbacks._receiver import Receiver

__all__ = ["Receiver", "decode"]
