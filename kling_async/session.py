"""`KlingSession`: wires the floors together; one line per verb."""

from __future__ import annotations

import asyncio
import inspect
import os
import random
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar
from weakref import WeakValueDictionary

import anyio

from kling_async._auth import Credentials, credentials_from
from kling_async._clock import Clock, SystemClock
from kling_async._fault import ConfigurationError, InvalidRefError
from kling_async._pacing import Polling, Retry, check_timeout, pace_for
from kling_async._profile import Profile, base_url, on_loopback, origin_of, profile_named
from kling_async._watch import Seen, Watch, snapshot_from
from kling_async._wire import decipher, reading, retry_after
from kling_async.errors import ProtocolError
from kling_async.files import Entry, Files
from kling_async.jobs import GenerateImage, Image2Video, Job, LipSync, Text2Video, VideoExtend, VirtualTryOn
from kling_async.models import Snapshot, TaskRef
from kling_async.purchase import Buyer, Order, mint_key
from kling_async.tasks import Poller, TaskHandle
from kling_async.transport import ClientSession, FailedExchange, Transport

__all__ = ["KlingSession"]

P = ParamSpec("P")
R = TypeVar("R")

_GRACE: Final = 30.0
"""Seconds that closing gives paid requests under way to settle."""


def _verb(job_class: Callable[P, Job[R]]) -> Callable[Concatenate[KlingSession, P], Coroutine[Any, Any, TaskHandle[R]]]:
    """The method that makes a job of this class and submits it, with the signature of the class."""

    async def verb(self: KlingSession, /, *args: P.args, **fields: P.kwargs) -> TaskHandle[R]:
        return await self.submit(job_class(*args, **fields))

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.signature(job_class).replace(return_annotation=TaskHandle)
    verb.__name__ = verb.__qualname__ = getattr(job_class, "verb", verb.__name__)
    verb.__doc__ = job_class.__doc__
    setattr(verb, "__signature__", signature.replace(parameters=[own, *signature.parameters.values()]))  # noqa: B010  functions declare none
    return verb


class KlingSession:
    """A connection to one gateway: buys tasks, follows them, fetches their results.

    Cheap to build anywhere, also outside a running event loop; nothing is opened before first use. It
    belongs to the loop it is first used in.

    Args:
        api_key: a key, or `ApiKey` or `KeyPair`; else `$KLING_API_KEY`.
        base_url: scheme, host and an optional mount path; else `$KLING_BASE_URL`.
        profile: `"gateway"` (routes below `/kling/v1`), `"official"` (below `/v1`), or a `Profile`.
        polling: how waits look after their tasks.
        retry: how what is provably harmless is tried again.
        http: an `aiohttp.ClientSession` to read with; never closed here. Paid requests and downloads
            use connections of their own.
        trust_env: whether proxies and netrc are taken from the environment.
        insecure: whether plain http to other hosts than loopback is allowed.
        clock: where time comes from; for tests.

    Raises:
        ConfigurationError: the key or the base URL is missing or unusable; the message says what to set.
    """

    generate_image = _verb(GenerateImage)
    text2video = _verb(Text2Video)
    image2video = _verb(Image2Video)
    video_extend = _verb(VideoExtend)
    lip_sync = _verb(LipSync)
    virtual_try_on = _verb(VirtualTryOn)

    def __init__(
        self,
        api_key: str | Credentials | None = None,
        *,
        base_url: str | None = None,
        profile: str | Profile = "gateway",
        polling: Polling | None = None,
        retry: Retry | None = None,
        http: ClientSession | None = None,
        trust_env: bool = False,
        insecure: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._profile = profile_named(profile)
        self._base = _address(base_url, self._profile, insecure=insecure)
        self._origin = origin_of(self._base)
        self._polling = polling or Polling()
        self._clock = clock or SystemClock()
        self._transport = Transport(
            credentials=credentials_from(api_key, os.environ.get("KLING_API_KEY")),
            clock=self._clock,
            injected=http,
            trust_env=trust_env,
            public_only=not on_loopback(self._base),
        )
        self._poller = Poller(self._look, self._clock, random.random, self._bind)
        self._buyer = Buyer(self._transport, self._profile, self._base, retry or Retry(), self._clock, random.random, self._keep_orphan)
        self._files = Files(self._transport)
        self._watches: WeakValueDictionary[tuple[str, str], Watch] = WeakValueDictionary()
        self._orphans: list[TaskRef] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._closed = False

    async def __aenter__(self) -> Self:
        """Bind to the running loop."""
        self._bind()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close; see `aclose`."""
        await self.aclose()

    async def aclose(self) -> None:
        """Stop looking, withdraw what has not been sent, let what has settle for up to 30 s, close what was opened here.

        Tasks go on at the service; attach to their refs in another session.
        """
        if self._closed:
            return
        if self._loop is not None:
            self._bind()
        self._closed = True
        self._buyer.withdraw()
        # Inside a cancelled scope every step would be cut short, and leave sockets open.
        with anyio.CancelScope(shield=True):
            try:
                await self._poller.aclose()
                await self._buyer.settle(_GRACE)
            finally:
                await self._transport.aclose()

    async def submit(self, job: Job[R], *, timeout: float | None = None) -> TaskHandle[R]:
        """Buy the job's task: when this returns, the service has accepted, and it costs money.

        Cancelling the call withdraws the request when nothing has left yet. What has left is settled in
        the background; a task that was accepted then is listed by `orphans`.

        Args:
            job: what you ask for.
            timeout: seconds for this call; `None` leaves it to the transport's own bounds.

        Raises:
            InvalidJobError: a media file cannot be read any more; nothing was sent.
            ApiError: the service refused; its class says whose move is next.
            TransportError: the gateway could not be reached; nothing was bought.
            SubmitOutcomeUnknown: the request went out, and nobody can tell whether it was accepted.
        """
        self._bind()
        key = job.external_task_id or mint_key()
        snapshot = await self._buyer.submit(job, key=key, timeout=check_timeout(timeout))
        watch = self._watch(self._ref(job, key, snapshot), snapshot)
        return TaskHandle(watch, self._poller, self._files.save)

    async def run(self, job: Job[R], *, timeout: float | None = None) -> R:
        """Submit the job and wait for its result in one call; `timeout` seconds bound both together.

        Cancelling the waiting leaves the task running; `orphans` lists it then, as nobody else has its id.

        Raises:
            KlingError: whatever `submit` and `TaskHandle.wait` raise.
        """
        bound = check_timeout(timeout)
        self._bind()
        started = self._clock.now()
        handle = await self.submit(job, timeout=bound)
        try:
            return await handle.wait(None if bound is None else max(0.0, started + bound - self._clock.now()))
        except asyncio.CancelledError:
            self._orphans.append(handle.ref)
            raise

    def attach(self, ref: TaskRef | str) -> TaskHandle[tuple[Any, ...]]:
        """A handle for a task made earlier or elsewhere; no I/O.

        Raises:
            InvalidRefError: the text is no reference.
            ConfigurationError: the task belongs to another gateway than this session's.
        """
        return TaskHandle(self._watch(self._own(ref)), self._poller, self._files.save)

    async def get(self, ref: TaskRef | str) -> Snapshot:
        """Look at a task; exactly one read.

        Raises:
            ApiError: the service refused.
            TransportError: there was no reply.
            ProtocolError: the reply cannot be read.
        """
        own = self._own(ref)
        self._bind()
        seen, _ = await self._look(own)
        return snapshot_from(seen, own)

    async def save(self, entries: Iterable[Entry], directory: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Download entries of results into `directory`, each atomically; gives the paths in order.

        Files that are there already are left alone and count as saved.

        Raises:
            DownloadError: one could not be fetched or written.
            ResultExpiredError: its link is dead; `TaskHandle.save` asks for a fresh one by itself.
        """
        self._bind()
        return await self._files.save(entries, directory)

    def orphans(self) -> tuple[TaskRef, ...]:
        """Tasks that were accepted after their caller had gone; they run, and they cost money."""
        return tuple(self._orphans)

    def __repr__(self) -> str:
        """Gateway and state; no key."""
        return f"<KlingSession {self._base}{' closed' if self._closed else ''}>"

    def _bind(self) -> None:
        if self._closed:
            msg = "this KlingSession is closed; make a new one"
            raise ConfigurationError(msg)
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop, self._pid = loop, os.getpid()
        elif self._loop is not loop or self._pid != os.getpid():
            msg = "this KlingSession belongs to another event loop or process; make one in each, and hand over refs as text"
            raise ConfigurationError(msg)

    def _own(self, ref: TaskRef | str) -> TaskRef:
        parsed = TaskRef.parse(ref) if isinstance(ref, str) else ref
        if not isinstance(parsed, TaskRef):
            msg = f"not a task reference: expected a TaskRef or its text, got {type(ref).__name__}"
            raise InvalidRefError(msg)
        if origin_of(parsed.origin) != self._origin:
            msg = f"the task belongs to {parsed.origin}, and this session talks to {self._origin}"
            raise ConfigurationError(msg)
        return parsed

    def _ref(self, job: Job[Any], key: str, snapshot: Snapshot) -> TaskRef:
        return TaskRef(
            origin=self._origin,
            action=job.route.action,
            action2=job.route.action2,
            task_id=snapshot.task_id,
            external_task_id=key,
            created_at=snapshot.created_at,
        )

    def _watch(self, ref: TaskRef, snapshot: Snapshot | None = None) -> Watch:
        watch = self._watches.get((ref.route, ref.task_id))
        if watch is None:
            pace = pace_for(self._polling, ref.action, ref.action2)
            watch = Watch(ref=ref, pace=pace, polling=self._polling, snapshot=snapshot)
            if snapshot is not None:
                watch.begin(self._clock.now(), random.random())  # noqa: S311  spreads looks in time, guards nothing
            self._watches[ref.route, ref.task_id] = watch
        return watch

    async def _look(self, ref: TaskRef) -> tuple[Seen, float | None]:
        self._bind()
        try:
            reply = await self._transport.read(reading(self._base, ref.action, ref.action2, ref.task_id))
        except FailedExchange as failed:
            return failed.failure, None
        wall = self._clock.wall()
        hint = retry_after(reply.headers, wall)
        try:
            return decipher(reply, wall=wall), hint
        except ProtocolError as error:
            return error.with_traceback(None), hint  # the frames of the decoder hold the whole reply

    def _keep_orphan(self, order: Order, snapshot: Snapshot) -> None:
        self._orphans.append(self._ref(order.job, order.key, snapshot))


def _address(given: str | None, profile: Profile, *, insecure: bool) -> str:
    text = given if given is not None else os.environ.get("KLING_BASE_URL")
    if text is None:
        msg = (
            "no base URL: set KLING_BASE_URL or pass base_url=…, such as https://gateway.example; "
            "to try without a gateway, run `kling emulator` in another terminal and use the URL and key that it prints"
        )
        raise ConfigurationError(msg)
    return base_url(text, profile, insecure=insecure)
