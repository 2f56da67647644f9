"""`KlingSession`: wires the floors together; one line per verb."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any, Final, Self, TypeVar
from weakref import WeakValueDictionary

import anyio

from kling_async._auth import Credentials, credentials_from, fingerprint
from kling_async._binding import Binding
from kling_async._capability import Callbacks
from kling_async._clock import Clock, Deadline, SystemClock
from kling_async._fault import ConfigurationError, InvalidRefError
from kling_async._gate import Place, Ticket
from kling_async._order import Receipt
from kling_async._pacing import Paces, Polling, Retry, check_timeout
from kling_async._profile import Profile, address_from, on_loopback, origin_of, profile_named
from kling_async._watch import Watch, snapshot_from
from kling_async.admission import Admission, limits_from
from kling_async.errors import SubmitOutcomeUnknown
from kling_async.files import Files
from kling_async.hints import Hints
from kling_async.hosts import Hosts
from kling_async.jobs import Job
from kling_async.journal import Creation, Journal
from kling_async.learning import Learning
from kling_async.lists import Lists
from kling_async.models import Snapshot, TaskRef
from kling_async.observers import Audience, Observer, StatusChange
from kling_async.orders import Orders
from kling_async.outcomes import Outcomes
from kling_async.poller import Poller
from kling_async.purchase import Buyer
from kling_async.reader import Reader
from kling_async.reconcile import Reconciler
from kling_async.recovery import Memory, ref_of
from kling_async.saving import Saving
from kling_async.settling import Settling
from kling_async.tasks import TaskHandle
from kling_async.transport import ClientSession, Transport
from kling_async.verbs import Verbs

__all__ = ["KlingSession"]

R = TypeVar("R")

_GRACE: Final = 30.0
"""Seconds that closing gives paid requests under way to settle."""

_AT_ONCE: Final = 100
"""Jobs of one `map` that are under way at once, when it is not said."""


class KlingSession(Verbs, Saving, Settling):
    """A connection to one gateway: buys tasks, follows them, fetches their results.

    Cheap to build anywhere, also outside a running event loop; nothing is opened before first use. It
    belongs to the loop it is first used in.

    Args:
        api_key: a key, or `ApiKey` or `KeyPair`; else `$KLING_API_KEY`, else the pair `$KLING_ACCESS_KEY` and `$KLING_SECRET_KEY`.
        base_url: scheme, host and an optional mount path; else `$KLING_BASE_URL`.
        profile: `"gateway"` (routes below `/kling/v1`), `"official"` (below `/v1`), or a `Profile`.
        polling: how waits look after their tasks.
        retry: how what is provably harmless is tried again.
        in_flight: tasks that may run at once, one number for each kind (`video`, `image`, `try_on`) or one
            per kind; an image task counts as `n`. `None` learns it from the service's refusals.
        journal: where creations are recorded so that they survive this process: a path, or a `Journal`, such
            as a `PostgresJournal`, which is never closed here. `None` records in memory only.
        http: an `aiohttp.ClientSession` to read with; never closed here. Paid requests and downloads
            use connections of their own.
        observers: called with a frozen record of every exchange, change, wait and anomaly, in place of the
            log records that are written otherwise.
        callbacks: a `kling_async.callbacks.Receiver`: each creation that has no `callback_url` gets one of its own there,
            and its task is looked at when a post comes, and else more seldom.
        trust_env: whether proxies, their netrc, and certificates (`SSL_CERT_FILE`) are taken from the environment.
        insecure: whether plain http to other hosts than loopback is allowed.
        clock: where time comes from; for tests.

    Raises:
        ConfigurationError: the key or the base URL is missing or unusable; the message says what to set.
    """

    def __init__(
        self,
        api_key: str | Credentials | None = None,
        *,
        base_url: str | None = None,
        profile: str | Profile = "gateway",
        polling: Polling | None = None,
        retry: Retry | None = None,
        in_flight: int | Mapping[str, int] | None = None,
        journal: Journal | str | os.PathLike[str] | None = None,
        http: ClientSession | None = None,
        observers: Iterable[Observer] = (),
        callbacks: Callbacks | None = None,
        trust_env: bool = False,
        insecure: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._base, self._binding = "", Binding()
        try:
            self._profile = profile_named(profile)
            self._base = address_from(base_url, os.environ.get("KLING_BASE_URL"), self._profile, insecure=insecure)
            credentials = credentials_from(api_key, os.environ)
        except ConfigurationError as error:
            raise error.with_traceback(None) from None
        finally:
            del api_key, base_url  # some tracebacks show locals, whatever fails below
        self._origin, self._clock = origin_of(self._base), clock or SystemClock()
        self._polling, retry = polling or Polling(), retry or Retry()
        self._journal = journal if isinstance(journal, Journal) else Journal(journal)
        self._closes_journal = not isinstance(journal, Journal)
        self._audience = Audience(observers)
        self._transport = Transport(credentials=credentials, clock=self._clock, injected=http, trust_env=trust_env)
        self._hosts = Hosts(trust_env=trust_env, public_only=not on_loopback(self._base))
        self._admission = Admission(self._clock, random.random, limits_from(in_flight), retry.probe)
        self._reader = Reader(self._transport, self._base, self._clock, self._audience, self._binding.check)
        wanted = lambda: self._admission.queued > 0  # noqa: E731  reads better than a method of its own
        tell = self._audience.tell
        lists = Lists(self._transport, self._base, self._clock, self._audience, self._binding.check, self._profile.list_size)
        lists_or_none, rate = lists if self._profile.lists else None, self._polling.max_rate
        check = self._binding.check
        self._poller = Poller(self._reader.look, self._clock, random.random, check, wanted, self._on_news, tell, lists_or_none, rate)
        self._admission.on_queue = self._poller.look_after_slots
        reconciler = Reconciler(self._transport.read, self._profile, self._base, retry, self._clock)
        owner, account = self._journal.owner(), fingerprint(credentials)
        self._memory = Memory(self._journal, owner, account, self._origin, reconciler, self._audience.tell)
        self._hints = Hints(
            callbacks=callbacks,
            earlier=self._memory.expected,
            clock=self._clock,
            binding=self._binding,
            look_soon=self._poller.look_soon,
            public_only=not (insecure or on_loopback(self._base)),
        )
        buyer = Buyer(
            transport=self._transport,
            profile=self._profile,
            base=self._base,
            retry=retry,
            clock=self._clock,
            roll=random.random,
            memory=self._memory,
            admission=self._admission,
            tell=self._audience.tell,
            hints=self._hints,
        )
        self._learning = Learning(Paces(self._polling), self._journal, self._origin, self._clock, random.random, self._audience.tell)
        self._orders = Orders(buyer, self._admission, self._clock, self._keep_orphan)
        self._files = Files(self._hosts, self._clock, self._audience.tell, self._memory.keep, self._memory.lacks)
        self._save = self._files.save  # one for all handles: a bound method is as large as a handle
        self._watches: WeakValueDictionary[str, Watch] = WeakValueDictionary()
        self._orphans: list[TaskRef] = []

    async def __aenter__(self) -> Self:
        """Bind to the running loop."""
        self._binding.check()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close; see `aclose`."""
        await self.aclose()

    async def aclose(self) -> None:
        """Stop looking, withdraw what has not been sent, let what has settle for up to 30 s, close what was opened here.

        Tasks go on at the service; attach to their refs in another session.
        """
        if self._binding.closed:
            return
        if self._binding.used:
            self._binding.check()
        self._binding.closed = True
        self._orders.withdraw()
        # Inside a cancelled scope every step would be cut short, and leave sockets open.
        with anyio.CancelScope(shield=True):
            try:
                await self._poller.aclose()
                await self._orders.settle(_GRACE)
            finally:
                self._admission.close()
                # Before the journal: what is still under way ends with its connection, and that is recorded.
                await self._transport.aclose()
                await self._hosts.aclose()
                await self._learning.aclose()
                if self._closes_journal:
                    await self._journal.aclose()
                self._memory.owner.release()

    async def submit(self, job: Job[R], *, timeout: float | None = None, dedupe: str | None = None) -> TaskHandle[R]:
        """Buy the job's task: when this returns, the service has accepted, and it costs money.

        Waits for a slot when the account has none. Cancelling the call withdraws the request when nothing
        has left yet. What has left is settled in the background; a task that was accepted then is listed
        by `orphans`.

        Args:
            job: what you ask for.
            timeout: seconds for this call; `None` waits for a slot as long as it takes.
            dedupe: your own word for this purchase, such as an order's number: the same word gives the
                handle of the same task, in every session that shares the journal.

        Raises:
            InvalidJobError: a media file cannot be read any more, `dedupe` is no text or was used for another request, or the
                service cannot reach the `callback_url`.
            ApiError: the service refused; its class says whose move is next.
            TransportError: the gateway could not be reached; nothing was bought.
            TransportTimeoutError: the time is up, or the server asks (`Retry-After`) for a longer pause than is left of it:
                then at once, and `retry_after` is that pause. Nothing was bought.
            SubmitOutcomeUnknown: the request went out, and nobody can tell whether it was accepted.
            JournalError: the purchase could not be recorded; nothing was sent, unless it has a `ref`.
        """
        self._binding.check()
        return self._handle(await self._bought(job, dedupe, Deadline.after(check_timeout(timeout), self._clock)))

    async def run(self, job: Job[R], *, timeout: float | None = None) -> R:
        """Submit the job and wait for its result in one call; `timeout` seconds bound both together.

        Cancelling the waiting leaves the task running; `orphans` lists it then, as nobody else has its id.

        Raises:
            KlingError: whatever `submit` and `TaskHandle.wait` raise.
        """
        bound = check_timeout(timeout)
        self._binding.check()
        deadline = Deadline.after(bound, self._clock)
        watch = await self._bought(job, None, deadline)
        handle: TaskHandle[R] = self._handle(watch)
        try:
            if bound is not None and not watch.done:
                await self._poller.wait(watch, deadline.at)
            return await handle
        except asyncio.CancelledError:
            self._orphans.append(watch.ref)
            raise

    def attach(self, ref: TaskRef | str) -> TaskHandle[tuple[Any, ...]]:
        """A handle for a task made earlier or elsewhere; no I/O.

        Raises:
            InvalidRefError: the text is no reference.
            ConfigurationError: the task belongs to another gateway than this session's.
        """
        return self._handle(self._watch(self._own(ref)))

    async def get(self, ref: TaskRef | str) -> Snapshot:
        """Look at a task; exactly one read.

        Raises:
            ApiError: the service refused.
            TransportError: there was no reply.
            ProtocolError: the reply cannot be read.
        """
        own = self._own(ref)
        self._binding.check()
        seen, _ = await self._reader.look(own)
        return snapshot_from(seen, own)

    def map(self, jobs: Iterable[Job[R]] | AsyncIterable[Job[R]], *, in_flight: int | None = None) -> Outcomes[R]:
        """Run many jobs: `async with kling.map(jobs) as outcomes`, then `async for outcome in outcomes`.

        Jobs are taken from the iterable as there is room; outcomes come in the order of their completion.
        One failure never hides another's task.

        Args:
            jobs: any iterable or asynchronous iterable of jobs.
            in_flight: jobs under way at once in this call, queueing included; 100 when not given.

        Raises:
            ConfigurationError: `in_flight` is no number from 1.
        """
        return Outcomes(jobs, self.submit, _AT_ONCE if in_flight is None else in_flight)

    def __repr__(self) -> str:
        """Gateway and state; no key."""
        return f"<KlingSession {self._base}{' closed' if self._binding.closed else ''}>"

    def _own(self, ref: TaskRef | str) -> TaskRef:
        parsed = TaskRef.parse(ref) if isinstance(ref, str) else ref
        if not isinstance(parsed, TaskRef):
            msg = f"not a task reference: expected a TaskRef or its text, got {type(ref).__name__}"
            raise InvalidRefError(msg)
        if origin_of(parsed.origin) != self._origin:
            msg = f"the task belongs to {parsed.origin}, and this session talks to {self._origin}"
            raise ConfigurationError(msg)
        return parsed

    async def _bought(self, job: Job[Any], dedupe: str | None, deadline: Deadline) -> Watch:
        self._hints.vet(job)
        try:
            return self._follow(await self._orders.submit(job, dedupe=dedupe, deadline=deadline), job)
        except SubmitOutcomeUnknown as error:
            raise error.asking(self.reconcile) from None

    def _handle(self, watch: Watch) -> TaskHandle[Any]:
        return TaskHandle(watch, self._poller, self._save)

    def _follow(self, receipt: Receipt, job: Job[Any] | None = None) -> Watch:
        watch = self._watch(receipt.ref, receipt.snapshot, job)
        if receipt.snapshot is not None:  # that it was accepted is the first change of all
            self._audience.tell(StatusChange(ref=watch.ref, before=None, after=receipt.snapshot.status))
        if receipt.ticket is not None:
            self._hold(watch, receipt.ticket)
        return watch

    def _resume(self, row: Creation) -> TaskHandle[Any]:
        watch = self._watch(ref_of(row), asked=row)
        if not row.state.final and (ticket := self._admission.ticket_of(row)) is not None:
            self._hold(watch, ticket)
        return self._handle(watch)

    def _hold(self, watch: Watch, ticket: Ticket) -> None:
        if ticket.place is Place.OUTSIDE:  # of a task that was bought before
            if watch.done or self._poller.holds(watch):
                return
            self._admission.found(ticket)
        self._poller.hold(watch, lambda: self._admission.left(ticket))

    async def _on_news(self, watch: Watch, before: Snapshot | None) -> None:
        now = watch.snapshot
        if now is None:
            return
        if before is None or before.status is not now.status:
            self._audience.tell(StatusChange(ref=watch.ref, before=before.status if before else None, after=now.status))
        if watch.done:
            self._hints.over(watch.ref.external_task_id)
            self._learning.ended(watch)
            await self._memory.finish(watch.ref, now, str(watch.failure or ""))

    def _watch(self, ref: TaskRef, snapshot: Snapshot | None = None, asked: Job[Any] | Creation | None = None) -> Watch:
        key, apart = ref.task_id, f"{ref.route}/{ref.task_id}"
        watch = self._watches.get(key)
        if watch is None or watch.ref.route != ref.route:  # ids of two routes may be the same
            key = key if watch is None else apart
            watch = self._watches.get(apart)
        if watch is None:
            watch = self._learning.watch(ref, asked, snapshot, called=self._hints.expects(ref.external_task_id))
            self._watches[key] = watch
            self._hints.meet(watch)
        return watch

    def _keep_orphan(self, receipt: Receipt) -> None:
        self._follow(receipt)
        self._orphans.append(receipt.ref)
