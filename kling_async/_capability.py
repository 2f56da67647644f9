"""What a session and a receiver of callbacks know of each other: tokens, by which a post says what it is about."""

from __future__ import annotations

import hashlib
import secrets
from typing import Final, Protocol

from attrs import field, frozen

__all__ = ["Callbacks", "Capability", "Listener", "capability", "digest_of"]

_TOKEN_BYTES: Final = 32


class Listener(Protocol):
    """Who is told of posts: a session."""

    async def knows(self, digest: bytes) -> bool:
        """Whether a post under the token of that digest is expected.

        Raises:
            KlingError: that cannot be found out.
        """
        ...

    def hint(self, digest: bytes, *, final: bool) -> None:
        """Such a post has come; `final` is whether it speaks of the end of its task. Returns at once."""


class Callbacks(Protocol):
    """A receiver of callbacks, as a session needs it: `kling_async.callbacks.Receiver`, or one of your own."""

    def url_for(self, token: str) -> str:
        """The public URL under which a post arrives as one with this token."""
        ...

    def bind(self, listener: Listener) -> None:
        """Ask this listener, too, whether it knows a token, and tell it of posts; hold it weakly."""


@frozen
class Capability:
    """Under what the posts about one creation arrive."""

    url: str = field(repr=False)
    digest: bytes
    """Of the token in the URL: all that is kept of it."""


def capability(callbacks: Callbacks) -> Capability:
    """A new one, that nobody can guess."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    return Capability(callbacks.url_for(token), digest_of(token))


def digest_of(token: str) -> bytes:
    """How a token is remembered: its SHA-256."""
    return hashlib.sha256(token.encode()).digest()
