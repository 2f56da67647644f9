"""Which links are followed, to which addresses, and what a file is called that comes from one."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from typing import Final, TypeAlias
from urllib.parse import urljoin, urlsplit

from kling_async.models import Audio, Image, TaskRef, Video

__all__ = ["Entry", "fault_of", "fingerprint_of", "hop", "is_error_page", "is_private", "is_public", "stem_of", "twin_of"]

Entry: TypeAlias = Video | Image | Audio

_LONGEST: Final = 8190
_NUMERIC: Final = re.compile(r"(?:.*\.)?(?:0x[0-9a-f]*|[0-9]+)")
"""Hosts that are read as an IPv4 address, in whichever way it is written."""
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_ERROR_PAGE: Final = re.compile(rb"(?is)(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|error\b|\?xml\b(?!.{0,1000}<svg))")


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public network, also when an IPv4 address hides in it (`reliability.md` P25)."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_reserved or ip.is_site_local:  # `::127.0.0.1`, the private range of NAT64, `fec0::`
            return False
    return ip.is_global and not ip.is_multicast


def is_private(host: str) -> bool:
    """Whether a host is not of the public network, as far as its text tells; what a name leads to is seen when it is looked up."""
    try:
        host = (host if host.isascii() else host.encode("idna").decode()).lower().rstrip(".")  # as it is read: digits may be wide ones
    except UnicodeError:
        return True
    if host == "localhost" or host.endswith(".localhost"):
        return True
    return (":" in host or bool(_NUMERIC.fullmatch(host))) and not is_public(host)


def fault_of(url: str, *, public_only: bool) -> str:
    """Why a result link is not followed; empty when it is (`reliability.md` P25)."""
    try:
        link = urlsplit(url)
        host, port = link.hostname or "", link.port
    except ValueError:
        return "it is no address"
    if not host or port == 0 or "@" in link.netloc or link.scheme not in ({"https"} if public_only else {"https", "http"}):
        return "it must be https without credentials"
    if len(url) > _LONGEST:
        return f"it has more than {_LONGEST} characters"
    return "it points into a private network" if public_only and is_private(host) else ""


def hop(url: str, location: str) -> str:
    """Where a redirect leads; empty when that cannot be read."""
    try:
        return urljoin(url, location).partition("#")[0]
    except ValueError:
        return ""


def is_error_page(head: bytes) -> bool:
    """Whether a file begins as the pages do that storage hosts answer dead links with, whatever they call them."""
    return _ERROR_PAGE.match(head) is not None


def stem_of(entry: Entry, number: int, count: int, ref: TaskRef | None) -> str:
    """The name of an entry's file, without its ending. Never from the link or a header: `..%2F` decodes to a path (P24)."""
    own = entry.id if isinstance(entry, Video | Audio) else ""
    given = ref.task_id if ref else own
    name = re.sub(r"[^A-Za-z0-9_-]", "_", given)[:96]
    if name != given or not name:  # made different, it must not meet another that was made the same
        digest = hashlib.sha256((given or entry.url.partition("?")[0]).encode(errors="replace")).hexdigest()
        name = f"{name}-{digest[:8]}" if name else digest[:16]
    return f"{name}-{number}" if count > 1 else name


def twin_of(entry: Entry, fresh: tuple[Entry, ...]) -> Entry | None:
    """The same entry in a result that was read again."""
    if isinstance(entry, Image):
        return next((other for other in fresh if isinstance(other, Image) and other.index == entry.index), None)
    return next((other for other in fresh if isinstance(other, type(entry)) and other.id == entry.id), None)


def fingerprint_of(url: str) -> str:
    """By what a link is known again: without its query, which is signed afresh each time, and unreadable, as a path may be secret too."""
    return hashlib.sha256(url.partition("#")[0].partition("?")[0].encode(errors="replace")).hexdigest()
