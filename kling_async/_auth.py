"""Bearer text from credentials and the time. Knows no request; nothing here ever prints a secret."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from typing import Final

from attrs import Attribute, field, frozen

from kling_async._fault import ConfigurationError, forgetful

__all__ = ["ApiKey", "Credentials", "KeyPair", "bearer", "credentials_from", "credentials_in", "fingerprint", "masked", "term"]

_MASK: Final = b"[masked]"
_SHORTEST: Final = 12
"""Characters of a key that is looked for in replies: a shorter one guards nothing, and may be a word of the reply."""
_LIFETIME: Final = 1800
"""Seconds a signed token is valid, the sample value of `api.md` 6.2."""
_SLACK: Final = 5
"""Seconds a token is dated back, for a server whose clock is behind (`api.md` 6.2)."""
_STEP: Final = 300
"""A token is signed as of the last full five minutes: the same text is used meanwhile, and no token
that is sent has less than 25 of its 30 minutes left."""


def _clean(instance: object, attribute: Attribute[str], text: object) -> None:
    if not isinstance(text, str) or not text or not text.isascii() or not text.isprintable() or " " in text:
        msg = f"{type(instance).__name__}.{attribute.name} must be non-empty printable ASCII without spaces; look for a stray newline"
        raise ConfigurationError(msg)


@forgetful
@frozen
class ApiKey:
    """A key that is sent as it is: every gateway's, and the newest official ones.

    No text shows it; `pickle` and `attrs.asdict` hold it, as they are asked to.
    """

    text: str = field(repr=False, validator=_clean)


@forgetful
@frozen
class KeyPair:
    """An official access key and secret key; tokens are signed from it and renewed before they expire.

    No text shows them; `pickle` and `attrs.asdict` hold them, as they are asked to.
    """

    access_key: str = field(repr=False, validator=_clean)
    secret_key: str = field(repr=False, validator=_clean)


Credentials = ApiKey | KeyPair


def credentials_from(given: str | Credentials | None, environ: Mapping[str, str]) -> Credentials:
    """What to authenticate with: the argument, else what the environment holds.

    Raises:
        ConfigurationError: there is neither, or it cannot be a key.
    """
    if isinstance(given, ApiKey | KeyPair):
        return given
    found = ApiKey(given) if given is not None else credentials_in(environ)
    if found is None:
        msg = (
            "no API key: set KLING_API_KEY or pass api_key=…; to try without one, run `kling emulator` "
            "in another terminal and use the key and base URL that it prints"
        )
        raise ConfigurationError(msg)
    return found


def credentials_in(environ: Mapping[str, str]) -> Credentials | None:
    """The key of `KLING_API_KEY`, else the pair of `KLING_ACCESS_KEY` and `KLING_SECRET_KEY`; `None` where none of them is set.

    Raises:
        ConfigurationError: one cannot be a key, or half of a pair is missing.
    """
    if "KLING_API_KEY" in environ:
        return ApiKey(environ["KLING_API_KEY"])
    access_key, secret_key = environ.get("KLING_ACCESS_KEY"), environ.get("KLING_SECRET_KEY")
    if access_key is None and secret_key is None:
        return None
    if access_key is None or secret_key is None:
        missing, there = ("SECRET", "ACCESS") if secret_key is None else ("ACCESS", "SECRET")
        del access_key, secret_key  # some tracebacks show locals
        msg = f"half a key: KLING_{there}_KEY is set, and KLING_{missing}_KEY is not; set both, or KLING_API_KEY instead"
        raise ConfigurationError(msg)
    return KeyPair(access_key=access_key, secret_key=secret_key)


def bearer(credentials: Credentials, wall: float) -> str:
    """The text after `Bearer` for a request sent at `wall` (Unix seconds)."""
    match credentials:
        case ApiKey():
            return credentials.text
        case KeyPair():
            issued = int(wall // _STEP * _STEP)
            claims = {"iss": credentials.access_key, "exp": issued + _LIFETIME, "nbf": issued - _SLACK}
            signed = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_part(claims)}"
            mac = hmac.digest(credentials.secret_key.encode(), signed.encode(), hashlib.sha256)
            return f"{signed}.{_urlsafe(mac)}"


def term(credentials: Credentials, wall: float) -> float:
    """A number that stays the same for as long as the bearer's text does: making that anew costs as much as half a read."""
    return wall // _STEP if isinstance(credentials, KeyPair) else 0.0


def masked(credentials: Credentials, body: bytes) -> bytes:
    """A reply without the key that came with the request: some gateways repeat it in the text of a refusal."""
    secrets = (credentials.text,) if isinstance(credentials, ApiKey) else (credentials.secret_key, credentials.access_key)
    if isinstance(credentials, KeyPair) and b"eyJ" in body:
        # Only our own tokens: a result link may carry one that is the file host's.
        known = f'{{"iss":"{credentials.access_key}'.encode()
        claims = _urlsafe(known[: len(known) // 3 * 3]).encode()
        body = re.sub(rb"eyJ[\w-]+\." + claims + rb"[\w-]+\.[\w-]+", _MASK, body)
    for secret in secrets:
        if len(secret) >= _SHORTEST and (known := secret.encode()) in body:
            body = body.replace(known, _MASK)
    return body


def fingerprint(credentials: Credentials) -> str:
    """A name for the account that says nothing of the key: for the journal, where one file may serve several."""
    text = credentials.text if isinstance(credentials, ApiKey) else credentials.access_key
    return hmac.digest(b"kling_async account", text.encode(), hashlib.sha256).hex()[:16]


def _part(value: object) -> str:
    return _urlsafe(json.dumps(value, separators=(",", ":")).encode())


def _urlsafe(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
