"""The emulator itself: opens the door on loopback, wires the parts, ends them all."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final, Self

from aiohttp import web
from attrs import frozen

from kling_async._clock import Clock, SystemClock
from kling_async.emulator import _control
from kling_async.emulator._api import Api
from kling_async.emulator._auth import ANY_KEY, Doors
from kling_async.emulator._callbacks import Courier
from kling_async.emulator._control import PREFIX
from kling_async.emulator._delivery import drop
from kling_async.emulator._facts import DAY
from kling_async.emulator._faults import Fault, Faults
from kling_async.emulator._feed import Feed
from kling_async.emulator._files import Files
from kling_async.emulator._given import durations_from, origin_of, slots_from
from kling_async.emulator._guard import HEADERS, complaint
from kling_async.emulator._ledger import GroundTruth
from kling_async.emulator._page import HOME, Page
from kling_async.emulator._profiles import PROFILES
from kling_async.emulator._service import Service
from kling_async.emulator._studio import Studio
from kling_async.emulator._time import EmulatedTime
from kling_async.jobs import ALL_JOBS

_LARGEST_BODY: Final = 64 << 20
"""Bytes: two pictures of the largest size, in base64, and room."""
_FAREWELL: Final = 1.0
"""Real seconds that requests under way get when the emulator closes."""


@frozen(kw_only=True)
class _Running:
    time: EmulatedTime
    courier: Courier
    studio: Studio
    runner: web.AppRunner
    url: str


class Emulator:
    """The gateway in the box: Kling's API on loopback, with real media files, no key and no money.

    ```python
    async with Emulator(speed=60) as emulator:
        async with KlingSession(emulator.api_key, base_url=emulator.url) as kling: ...
    ```

    A prompt may carry orders: `[fail]` or `[fail: reason]` makes the task fail, `[stuck]` never end, `[seconds: 42]` take that
    long, and `[block]` has the creation refused. Belongs to the loop it is entered in, and runs once.

    Args:
        profile: which kind of server to be: `gateway`, `official`, `newapi` or `onehub`.
        host: address to listen on. Keep it on loopback: nothing here is made for strangers.
        port: 0 picks a free one.
        speed: emulated seconds to a real one; 0 stands still and only `advance` moves the time.
        api_keys: plain keys that open; `None` for any (with `access_keys`: only `api_key` besides signed tokens).
        access_keys: access key → secret key; tokens they sign are checked as the service does (1000 to 1004).
        slots: tasks at once per kind (`video`, `image`, `try_on`) and account, where different from 20, 9 and 5.
        durations: emulated seconds a task takes, for all or by route (`videos/text2video`) or kind; else the averages of
            `api.md` section 9, such as 319 for text2video and 32 for an image.
        link_ttl: emulated seconds a result link lives; a fresh read of the task signs a fresh one.
        strict_parent: with profile `gateway`, refuse `video-extend` and `lip-sync` without the `task_id` of a parent made
            here, as one family of gateways does. Otherwise a `video_id` never seen is taken for an older clip of 5 seconds.
        webhook_secret: sign callbacks with it (Standard Webhooks, `whsec_…`).
        clock: where real time comes from.
        seed: makes ids repeat.
        studio: who makes the files; not closed by the emulator.
    """

    def __init__(
        self,
        *,
        profile: str = "gateway",
        host: str = "127.0.0.1",
        port: int = 0,
        speed: float = 1.0,
        api_keys: Iterable[str] | None = None,
        access_keys: Mapping[str, str] | None = None,
        slots: Mapping[str, int] | None = None,
        durations: Mapping[str, float] | float | None = None,
        link_ttl: float = DAY,
        strict_parent: bool = False,
        webhook_secret: str | None = None,
        clock: Clock | None = None,
        seed: int | None = None,
        studio: Studio | None = None,
    ) -> None:
        if profile not in PROFILES:
            msg = f"profile: no {profile!r}; there are {', '.join(PROFILES)}"
            raise ValueError(msg)
        self._feed = Feed(needed=lambda task: not task.ended(self.now))
        self.log: Final = GroundTruth(feed=self._feed)
        keys = None if api_keys is None else tuple(api_keys)
        self._kinds = {str(job.route): str(job.kind) for job in ALL_JOBS}
        self._dice = random.Random(seed)  # noqa: S311  makes ids, keeps no secret
        self._profile = PROFILES[profile](new_id=self._new_id)
        self._profile_name = profile
        self._host, self._port, self._speed = host, port, speed
        self._api_key = keys[0] if keys else ANY_KEY
        self._doors = Doors(api_keys=None if keys is None else frozenset(keys), access_keys=dict(access_keys or {}))
        self._link_ttl = link_ttl
        self._webhook_secret = webhook_secret
        self._clock = clock or SystemClock()
        self._studio = studio
        self._faults = Faults()
        self._service = Service(
            slots=slots_from(slots or {}),
            durations=durations_from(durations, self._kinds),
            dice=self._dice,
            own_ids=self._profile.own_ids,
            unique_keys=self._profile.by_key,
            strict_parent=strict_parent and self._profile.needs_parent,
        )
        self._running: _Running | None = None

    @property
    def url(self) -> str:
        """Scheme, host and port, without the profile's prefix: what `base_url` wants."""
        return self._live().url

    @property
    def api_key(self) -> str:
        """A key that works."""
        return self._api_key

    @property
    def now(self) -> float:
        """Emulated seconds since the start."""
        return self._live().time.now()

    @property
    def dashboard(self) -> str:
        """The address of its page, for people with a browser."""
        return f"{self.url}{HOME}"

    @property
    def speed(self) -> float:
        """Emulated seconds to a real one; a new one holds from now on.

        Raises:
            ValueError: negative or not finite.
        """
        return self._running.time.speed if self._running else self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        self._live().time.speed = speed
        self._feed.tell("clock")

    @property
    def slots(self) -> Mapping[str, int]:
        """Tasks at once per kind and account; to be set as to the constructor. Tasks that have a slot keep it.

        Raises:
            ValueError: no such kind, or no whole number from 0.
        """
        return dict(self._service.slots)

    @slots.setter
    def slots(self, slots: Mapping[str, int]) -> None:
        self._service.slots = slots_from(slots)
        self._feed.tell("slots")

    @property
    def held(self) -> Mapping[str, Mapping[str, int]]:
        """Slots in use now: account (the fingerprint of its key) → kind → how many."""
        return self._service.held(self.now)

    @property
    def orders(self) -> tuple[Fault, ...]:
        """The faults ordered so far, spent ones included: `.hits` says how often each struck."""
        return tuple(self._faults.orders)

    @property
    def health(self) -> dict[str, Any]:
        """A few facts, fit for JSON."""
        return {
            "ok": True,
            "profile": self._profile_name,
            "url": self.url,
            "prefix": self._profile.prefix,
            "routes": list(self._kinds),
            "speed": self.speed,
            "now": self.now,
            "tasks": len(self._service.tasks),
        }

    def advance(self, seconds: float) -> None:
        """Jump ahead by emulated seconds: tasks move on at once, callbacks that are due get sent.

        Raises:
            ValueError: negative or not finite.
        """
        self._live().time.advance(seconds)
        self._feed.tell("clock")

    def fault(
        self,
        name: str,
        *,
        route: str | None = None,
        method: str | None = None,
        times: int | None = 1,
        accepted: bool | None = None,
        **options: Any,
    ) -> Fault:
        """Order a fault for the next requests it fits; orders are served in turn.

        Args:
            name: one of `chunked code drop empty fail garbage_json hang html missing_result no_index not_found null_videos
                odd_duration reset retry_after slow stale status string_code stuck truncated unknown_status`.
            route: only there, such as `videos/text2video`, or `files` for result files; `None`: anywhere but result files.
            method: `GET`, `POST` or `None` for both.
            times: how often; `None` for ever.
            accepted: whether a creation is carried out before its answer is spoilt. By default only where the answer is the
                true one, badly delivered (`chunked garbage_json slow string_code truncated`).
            options: of the fault: `code(code, http, message)`, `empty(status)`, `fail(reason)`, `hang(seconds)`, `html(status)`,
                `odd_duration(duration)`, `retry_after(seconds, status)`, `slow(seconds, pieces)`, `status(status, body)` with a
                body of `html`, `json` or `empty`, `truncated(share)`, `unknown_status(status)`. These seconds are real ones.

        Raises:
            ValueError: no such fault or option; the message lists what there is.
        """
        order = self._faults.order(name, route=route, method=method, times=times, accepted=accepted, options=options)
        self._feed.tell("faults")
        return order

    def clear_faults(self, name: str | None = None) -> None:
        """Take back all orders, or those of one name."""
        self._faults.orders[:] = [order for order in self._faults.orders if name not in {None, order.name}]
        self._feed.tell("faults")

    def reset(self) -> None:
        """Forget all tasks, the log and the faults; time goes on."""
        self._service.clear()
        self.log.clear()
        self.clear_faults()

    async def __aenter__(self) -> Self:
        if self._running:
            msg = "this emulator has been started before; make another one"
            raise RuntimeError(msg)
        app = web.Application(client_max_size=_LARGEST_BODY)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_FAREWELL)
        # The handler needs the port in the links it makes, and the port is known once the site is up.
        time, studio = EmulatedTime(self._clock, self._speed), self._studio or Studio()
        courier = Courier(log=self.log, time=time, secret=self._webhook_secret, new_id=self._new_id)

        async def handle(request: web.Request) -> web.StreamResponse:
            if time.closed:
                return await drop(request)
            own = request.path == PREFIX or request.path.startswith(HOME)
            # A browser at the bare address looks for the page; no client of the API goes there.
            if not own and (request.path != "/" or "text/html" not in request.headers.get("Accept", "")):
                return await api.handle(request)
            if why := complaint(request.headers.get("Host"), request.headers.get("Origin"), self._host):
                return web.json_response({"error": why}, status=403, headers=HEADERS)
            answer = await page.answer(request)
            return await _control.answer(self, request) if answer is None else answer

        app.router.add_route("*", "/{path:.*}", handle)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except BaseException:
            await runner.cleanup()
            raise
        url = origin_of(self._host, runner.addresses[0][1])
        files = Files(
            origin=url,
            secret=self._dice.randbytes(32),
            ttl=self._link_ttl,
            time=time,
            studio=studio,
            scene_of=self._service.scene_of,
        )
        api = Api(
            profile=self._profile,
            kinds=self._kinds,
            doors=self._doors,
            service=self._service,
            files=files,
            courier=courier,
            faults=self._faults,
            log=self.log,
            time=time,
        )
        page = Page(
            emulator=self,
            feed=self._feed,
            files=files,
            time=time,
            epoch=uuid.uuid4().hex[:8],  # not of the dice, which make ids repeat
            origin=url,
            api_key=self._api_key,
        )
        self._running = _Running(time=time, courier=courier, studio=studio, runner=runner, url=url)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End everything: requests under way, callbacks, the render thread. Idempotent; the log stays readable."""
        running = self._running
        if running is None:
            return
        # The door first: a client that loses its answer may try again at once, and must find nobody. It may
        # do so over a connection it still has: `handle` sees to that.
        for site in tuple(running.runner.sites):
            await site.stop()
        running.time.close()
        await running.courier.aclose()
        await running.runner.cleanup()
        if self._studio is None:
            await running.studio.aclose()

    def _live(self) -> _Running:
        if self._running is None:
            msg = "the emulator is not running: enter it with `async with Emulator() as emulator:` first"
            raise RuntimeError(msg)
        return self._running

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self._dice.getrandbits(128), version=4))
