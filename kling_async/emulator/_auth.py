"""Who is asking? Plain keys and signed tokens, checked by hand (`api.md` section 6). Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, Final

from attrs import field, frozen

from kling_async.emulator._facts import Refused

ANY_KEY: Final = "sk-emulator"
"""The key people are told when they named none."""
_EMPTY, _WRONG, _EARLY, _EXPIRED = 1001, 1002, 1003, 1004


@frozen(kw_only=True)
class Doors:
    """Which keys open. Values stay out of its repr."""

    api_keys: frozenset[str] | None = field(default=None, repr=False)
    """Plain keys; `None`: any, unless there are key pairs."""
    access_keys: Mapping[str, str] = field(factory=dict, repr=False)
    """Access key → secret key, for signed tokens."""

    def account(self, authorization: str | None, wall: float) -> str:
        """A fingerprint of whose request it is, given its header and the time in Unix seconds.

        Raises:
            Refused: 1001 without a key, 1002 with a wrong one, 1003 before and 1004 after a token's time.
        """
        if not (authorization or "").strip():
            raise Refused(_EMPTY, "Authorization is empty")
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        if scheme != "Bearer" or not key:
            raise Refused(_WRONG, "Authorization is not a Bearer token")
        claims = _claims(key)
        if claims is not None and self.access_keys:
            return fingerprint(self._signed(key, claims, wall))
        if self.api_keys is None:
            if self.access_keys and key != ANY_KEY:
                raise Refused(_WRONG, "api key not found")
        elif key not in self.api_keys:
            raise Refused(_WRONG, "api key not found")
        # A token changes every half hour, its issuer does not.
        return fingerprint(str(claims["iss"]) if claims and "iss" in claims else key)

    def _signed(self, token: str, claims: Mapping[str, Any], wall: float) -> str:
        issuer, expires, starts = claims.get("iss"), claims.get("exp"), claims.get("nbf", 0)
        secret = self.access_keys.get(issuer) if isinstance(issuer, str) else None
        if secret is None or not isinstance(issuer, str):
            raise Refused(_WRONG, "api key not found")
        signed, _, signature = token.rpartition(".")
        expected = hmac.digest(secret.encode(), signed.encode(errors="surrogateescape"), "sha256")
        if not hmac.compare_digest(expected, _part(signature) or b""):
            raise Refused(_WRONG, "Authorization signature is invalid")
        if not isinstance(expires, int | float) or not isinstance(starts, int | float):
            raise Refused(_WRONG, "Authorization claims are invalid: exp and nbf must be Unix seconds")
        if wall >= expires:
            raise Refused(_EXPIRED, "Authorization is expired")
        if wall < starts:
            raise Refused(_EARLY, "Authorization is not yet valid")
        return issuer


def fingerprint(key: str) -> str:
    """Eight characters that tell keys apart and give none away."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:8]


def _claims(token: str) -> dict[str, Any] | None:
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004  header, claims, signature
        return None
    try:
        header, claims = (json.loads(_part(part) or b"") for part in parts[:2])
    except ValueError:
        return None
    signed_as_documented = isinstance(header, dict) and header.get("alg") == "HS256"
    return claims if signed_as_documented and isinstance(claims, dict) else None


def _part(text: str) -> bytes | None:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return None
