"""Standard Webhooks signatures (`api.md` 6.4). Pure: the time is an argument."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Final

from kling_async._fault import ConfigurationError

__all__ = ["is_signed", "keys_from"]

_DRIFT: Final = 300.0
"""Seconds by which the sender's clock and ours may differ, the way here included."""
_MOST: Final = 16
"""Signatures looked at; while keys are changed there are two."""
_MOMENT: Final = re.compile(r"[0-9]{1,12}")


def keys_from(secret: str | Iterable[str] | None) -> tuple[bytes, ...]:
    """The keys of the secrets, each `whsec_` and base64; several while they are changed.

    Raises:
        ConfigurationError: one is none, or there are none; the message does not repeat it.
    """
    if secret is None:
        return ()
    texts = [secret] if isinstance(secret, str) else list(secret)
    keys = [_key(text) for text in texts]
    if not keys or not all(keys):
        msg = "secret: as the service shows it, `whsec_` and base64, or several of them"
        raise ConfigurationError(msg)
    return tuple(keys)


def is_signed(keys: tuple[bytes, ...], headers: Mapping[str, str], body: bytes, *, now: float) -> bool:
    """Whether one of the keys has signed this body, about now; `now` is Unix seconds."""
    name, moment, given = (headers.get(f"webhook-{part}", "") for part in ("id", "timestamp", "signature"))
    if not name.isascii() or not name or not _MOMENT.fullmatch(moment) or abs(now - int(moment)) > _DRIFT:
        return False
    signed = f"{name}.{moment}.".encode() + body
    right = [base64.b64encode(hmac.digest(key, signed, "sha256")) for key in keys]
    candidates = [text.removeprefix("v1,").encode("utf-8", "replace") for text in given.split()[:_MOST] if text.startswith("v1,")]
    return any(hmac.compare_digest(candidate, mac) for candidate in candidates for mac in right)


def _key(text: str) -> bytes:
    try:
        return base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        return b""
