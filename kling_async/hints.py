"""What callbacks come to: one capability URL for each creation, and a look at its task. Nothing depends on one arriving.

A post is never believed (`reliability.md` P27): the token says which creation it is about, and what has become of that
is read by ourselves. So lies, replays and another service's task ids change nothing.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from attrs import define, field

from kling_async._binding import Binding
from kling_async._capability import Callbacks, Capability, capability
from kling_async._clock import Clock
from kling_async._fault import ConfigurationError
from kling_async._links import is_private
from kling_async._watch import Watch
from kling_async.errors import InvalidJobError
from kling_async.jobs import Job
from kling_async.journal import Creation

__all__ = ["Hints"]

_SELECTOR: Final = 8
"""Bytes of a digest by which it is found; the rest is compared in constant time."""
_NOBODY: Final = bytes(32)
_MOST: Final = 100_000
"""Creations whose posts are expected; beyond that the oldest, which nobody can be waiting for, are forgotten."""


@define(eq=False)
class _Expected:
    digest: bytes
    key: str
    heard: bool = False
    """Whether any post has come."""
    parked: bool = False
    """Whether one said that there is something to see while there was nothing to look at yet."""


@define(eq=False, kw_only=True)
class Hints:
    """The creations of a session whose posts are expected."""

    callbacks: Callbacks | None
    earlier: Callable[[], Awaitable[Iterable[Creation]]]
    """What an earlier process has left unfinished."""
    clock: Clock
    binding: Binding
    look_soon: Callable[[Watch, bool], object]
    """Look at a task; whether its end is what there is to see."""
    public_only: bool
    """Whether callbacks must go to a public https address; not so where the service itself is on this machine."""
    deaf: bool = False
    """Whether the last task ended without a post: then posts do not get here, and looks are made as if none were expected."""
    _expected: dict[bytes, _Expected] = field(factory=dict, init=False)
    _by_key: dict[str, _Expected] = field(factory=dict, init=False)
    _watches: WeakValueDictionary[str, Watch] = field(factory=WeakValueDictionary, init=False)
    _loading: asyncio.Lock = field(factory=asyncio.Lock, init=False)
    _loaded: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        if self.callbacks is None:
            return
        if self.public_only and (fault := _reach_fault(self.callbacks.url_for(""))):
            msg = f"callbacks: the receiver's public URL {fault}"
            raise ConfigurationError(msg)
        self.callbacks.bind(self)

    def vet(self, job: Job[Any]) -> None:
        """See that the service can reach the job's own `callback_url`.

        Raises:
            InvalidJobError: it cannot, or the posts would travel in the clear.
        """
        if self.public_only and job.callback_url is not None and (fault := _reach_fault(job.callback_url)):
            raise InvalidJobError("callback_url", fault)

    def issue(self) -> Capability | None:
        """A URL that nobody can guess; `None` where posts are not received."""
        return None if self.callbacks is None else capability(self.callbacks)

    def expect(self, key: str, digest: bytes) -> None:
        """From now on a post under that token is about the creation under that key."""
        self._by_key[key] = self._expected[digest[:_SELECTOR]] = _Expected(digest, key)
        if len(self._expected) > _MOST:
            self._forget(next(iter(self._expected.values())))

    def forget(self, digest: bytes) -> None:
        """Nothing was bought: no post can come."""
        if expected := self._find(digest):
            self._forget(expected)

    def over(self, key: str | None) -> None:
        """The task is final: its token ends with it."""
        if expected := self._by_key.get(key or ""):
            self.deaf = not expected.heard
            self._forget(expected)

    def expects(self, key: str | None) -> bool:
        """Whether that creation's task need not be looked at often: posts about it are on their way, as far as we know."""
        return not self.deaf and key in self._by_key

    def meet(self, watch: Watch) -> None:
        """The task of a creation is known: what its posts ask for can be done."""
        key = watch.ref.external_task_id
        if self.callbacks is None or key is None:
            return
        self._watches[key] = watch
        if (expected := self._by_key.get(key)) and expected.parked:
            watch.hurry(self.clock.now(), final=True)

    async def knows(self, digest: bytes) -> bool:
        """Whether a post under that token is expected here.

        Raises:
            ConfigurationError: the session belongs to another event loop or process than the receiver.
            JournalError: the tokens of an earlier process cannot be read.
        """
        if self.binding.closed:
            return False
        self.binding.check()
        await self._load()
        return self._find(digest) is not None

    def hint(self, digest: bytes, *, final: bool) -> None:
        """A post has come: look at its task soon; `final` is whether it speaks of the end."""
        expected = self._find(digest)
        if expected is None or self.binding.closed:  # over since the post was let in
            return
        expected.heard, self.deaf = True, False
        watch = self._watches.get(expected.key)
        if watch is not None:
            self.look_soon(watch, final)
        else:
            expected.parked |= final

    async def _load(self) -> None:
        # Once: what another process has bought since is waited for there, and its posts would wake nobody here.
        if self._loaded:
            return
        async with self._loading:
            if not self._loaded:
                for row in await self.earlier():
                    if row.callback_hash is not None and row.key not in self._by_key:
                        self.expect(row.key, row.callback_hash)
                self._loaded = True

    def _find(self, digest: bytes) -> _Expected | None:
        found = self._expected.get(digest[:_SELECTOR])
        return found if hmac.compare_digest(found.digest if found else _NOBODY, digest) else None

    def _forget(self, expected: _Expected) -> None:
        self._expected.pop(expected.digest[:_SELECTOR], None)
        if self._by_key.get(expected.key) is expected:
            del self._by_key[expected.key]


def _reach_fault(url: str) -> str | None:
    """Why the service cannot, or should not, post to that address, as far as its text tells."""
    parts = urlsplit(url)
    if parts.scheme.lower() != "https":
        return "must be https: whoever reads the post on its way could send others"
    return "must be an address that the service can reach, not one of a private network" if is_private(parts.hostname or "") else None
