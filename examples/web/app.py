"""A web application around one `KlingSession`: `python app.py`, then open http://127.0.0.1:8000.

Settings are environment variables: those of the SDK (`KLING_API_KEY`, `KLING_BASE_URL`), `PORT`, `STUDIO_FOLDER` for what is kept,
and `PUBLIC_URL`, under which the service reaches this application, if it does.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import uvicorn
from attrs import asdict
from fastapi import Depends, FastAPI, Form, HTTPException, Request, UploadFile
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi.staticfiles import StaticFiles
from studio import Clip, Studio

from kling_async import Image2Video, InvalidJobError, Journal, KlingSession, Polling, Text2Video
from kling_async.callbacks import Receiver

PAGE = Path(__file__).with_name("page")


async def studio_of(request: Request) -> Studio:
    """The one of this process."""
    studio: Studio = request.app.state.studio
    return studio


async def own_page(request: Request) -> None:
    """Refuse what another site's page sends: it would spend your money."""
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise HTTPException(403, "Orders are taken from this application's own page only.")


def seen_now(clip: Clip) -> dict[str, Any]:
    """The clip as the page gets it: with an age, because the clock of the browser may be wrong."""
    return asdict(clip) | {"age": time.time() - clip.asked_at}


def create_app() -> FastAPI:
    """The application; `uvicorn --factory app:create_app` serves it, too."""
    folder = Path(os.environ.get("STUDIO_FOLDER", "clip-studio"))
    clips = folder / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    public_url = os.environ.get("PUBLIC_URL", "")
    receiver = Receiver(f"{public_url}/callbacks") if public_url else None

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (
            Journal(folder / "orders.db") as journal,
            KlingSession(journal=journal, callbacks=receiver, polling=Polling.patient()) as kling,
            Studio(kling=kling, journal=journal, folder=clips) as app.state.studio,
        ):
            yield

    app = FastAPI(lifespan=lifespan, openapi_url=None)  # nor its pages, which load scripts from elsewhere
    # Names that lead here without being ours are another site's trick.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", urlsplit(public_url).hostname or "localhost"])

    @app.post("/orders", status_code=202, dependencies=[Depends(own_page)])
    async def take_order(
        *,
        studio: Annotated[Studio, Depends(studio_of)],
        order: Annotated[str, Form(pattern="^[0-9a-f]{32}$")],
        prompt: Annotated[str, Form()],
        duration: Annotated[int, Form()],
        aspect_ratio: Annotated[str, Form()],
        picture: UploadFile | None = None,
    ) -> dict[str, Any]:
        image = await picture.read() if picture is not None else b""
        job: Text2Video | Image2Video
        if image:
            job = Image2Video(image=image, prompt=prompt, duration=duration)
        else:
            job = Text2Video(prompt=prompt, duration=duration, aspect_ratio=aspect_ratio)
        return seen_now(studio.order(order, job))

    @app.get("/events", response_class=EventSourceResponse)
    async def tell_changes(studio: Annotated[Studio, Depends(studio_of)]) -> AsyncIterator[ServerSentEvent]:
        async for clip in studio.changes():
            yield ServerSentEvent(data=seen_now(clip), retry=1000)

    @app.exception_handler(InvalidJobError)
    async def explain(_: Request, error: InvalidJobError) -> JSONResponse:
        return JSONResponse({"detail": f"{error.field.replace('_', ' ')}: {error.rule}"}, status_code=422)

    app.mount("/clips", StaticFiles(directory=clips))
    if receiver is not None:
        app.mount("/callbacks", receiver.asgi_app())
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


class Server(uvicorn.Server):
    """One that does not wait for streams of events: they have no end of their own."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End them, and then everything else."""
        if isinstance(self.config.app, FastAPI):
            self.config.app.state.studio.hush()
        await super().shutdown(sockets)


if __name__ == "__main__":
    # Not the paths of callbacks into a log: they are secrets.
    config = uvicorn.Config(create_app(), port=int(os.environ.get("PORT", "8000")), access_log=False, timeout_graceful_shutdown=5)
    server = Server(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    sys.exit(not server.started)
