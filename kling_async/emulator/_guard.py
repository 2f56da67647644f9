"""Who may look at the emulator and touch it: programs on this machine and its own page, but no web page from elsewhere. Pure."""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""On every answer."""
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
"""For the page: nothing from elsewhere, and no text that is taken for HTML."""


def complaint(host: str | None, origin: str | None, bound: str) -> str | None:
    """Why a request is turned away; nothing when it is welcome.

    Args:
        host: its `Host`. A name that a stranger could point at this machine is refused (DNS rebinding); an address cannot be one.
        origin: its `Origin`, which browsers send along and other programs do not.
        bound: the name or address that the emulator was told to listen on.
    """
    name = _name(f"//{host or ''}")
    if not (_is_address(name) or name == "localhost" or name.endswith(".localhost") or (name and name == bound.lower())):
        return f"not under the name {name[:80]!r}: use an address or localhost, or start the emulator with that name as its host"
    if origin is not None and (host is None or _netloc(origin) != host.lower()):
        return "not for pages from elsewhere"
    return None


def _name(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _netloc(url: str) -> str:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
