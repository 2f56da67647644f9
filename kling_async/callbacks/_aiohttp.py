"""The receiver in aiohttp.web: requests in, responses out, nothing decided."""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import web

from kling_async.callbacks._posts import Answer, Body, Post, flat
from kling_async.errors import CallbackError

__all__ = ["web_application"]


def web_application(answer: Answer) -> web.Application:
    """A web application that hands everything to `answer`."""

    async def handle(request: web.Request) -> web.Response:
        post = Post(
            method=request.method,
            path=request.match_info["path"],
            query="?" in request.raw_path,
            headers=flat(request.headers.items()),
        )
        status = await answer(post, _body(request))
        response = web.Response(status=status.value)
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            response.headers["Allow"] = "POST"
        if status is not HTTPStatus.OK:
            response.force_close()  # the body may not have been read
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    return app


def _body(request: web.Request) -> Body:
    async def piece() -> bytes | None:
        try:
            # Not `request.read()`: that has neither our bound nor our patience.
            return await request.content.readany() or None
        except (web.RequestPayloadError, OSError):
            problem = CallbackError("the body cannot be read")
        raise problem

    return piece
