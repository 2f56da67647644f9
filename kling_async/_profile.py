"""What is known about a server, as data, and the address its routes hang under; pessimistic where nothing is known."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

from attrs import Attribute, field, frozen

from kling_async._fault import ConfigurationError

__all__ = ["GATEWAY", "OFFICIAL", "Profile", "address_from", "base_url", "on_loopback", "origin_of", "profile_named"]

_PATH: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|$))(?:[\w.~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+)*", re.ASCII)
"""Non-empty parts, none of them `.` or `..`."""
_NAME: Final = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def _whole_path(instance: object, attribute: Attribute[str], text: str) -> None:
    del instance
    if not text or not _PATH.fullmatch(text):
        msg = f"Profile.{attribute.name}: a path such as /kling/v1, with a slash in front and none at the end, not {text!r}"
        raise ConfigurationError(msg)


@frozen(kw_only=True)
class Profile:
    """What is known about a server (`reliability.md` 2.5). A flag that is `False` means: no, or nobody knows.

    For a server you know better, start from one of the two that are named: `attrs.evolve(GATEWAY, lists=True)`.
    """

    name: str
    prefix: str = field(validator=_whole_path)
    """The path between the mount point and the routes."""
    finds_by_key: bool = False
    """A task can be read by its `external_task_id` in place of its `task_id` (`api.md` 7)."""
    lists: bool = False
    """`GET` on a creation path gives pages of tasks (`api.md` 7): where many are waited for, a page is read in place of many looks."""
    list_size: int = 500
    """The most rows of a page (`pageSize`, `api.md` 7)."""
    json_error_means_not_charged: bool = False
    """A 5xx whose body is a well-formed error bought nothing. True of new-api as published; its operator may differ."""


GATEWAY: Final = Profile(name="gateway", prefix="/kling/v1")
OFFICIAL: Final = Profile(name="official", prefix="/v1", finds_by_key=True, lists=True)

_NAMED: Final = {profile.name: profile for profile in (GATEWAY, OFFICIAL)}


def profile_named(profile: str | Profile) -> Profile:
    """The profile of that name; a `Profile` is taken as it is.

    Raises:
        ConfigurationError: there is none of that name.
    """
    if isinstance(profile, Profile):
        return profile
    if profile not in _NAMED:
        msg = f"profile: {profile!r} is not known; use {' or '.join(map(repr, _NAMED))}, or pass a Profile of your own"
        raise ConfigurationError(msg)
    return _NAMED[profile]


def base_url(text: str, profile: Profile, *, insecure: bool = False) -> str:
    """What the routes hang under: `scheme://host[:port][/mount]/prefix`, without a slash at the end.

    A text that already ends in the profile's prefix is taken as it is. Plain `http` is for loopback hosts
    only, unless `insecure`: the key travels in every request.

    Raises:
        ConfigurationError: the text is no such address; the message never repeats it, for it may hold a secret.
    """
    parts = _split(text)
    path = parts.path.rstrip("/")
    if not _PATH.fullmatch(path):
        msg = "base URL: its path has an empty, '.' or '..' part, or a character that needs percent-encoding; write it out plainly"
        raise ConfigurationError(msg)
    origin = _origin(parts)
    if parts.scheme == "http" and not insecure and not on_loopback(origin):
        msg = f"base URL: {origin} would send the key in the clear; use https, or pass insecure=True if that network is yours"
        raise ConfigurationError(msg)
    return origin + (path if path.endswith(profile.prefix) else path + profile.prefix)


def address_from(given: str | None, environ: str | None, profile: Profile, *, insecure: bool) -> str:
    """The base URL to use: the argument, else the environment's.

    Raises:
        ConfigurationError: there is neither, or it is no such address.
    """
    text = given if given is not None else environ
    if text is None:
        msg = (
            "no base URL: set KLING_BASE_URL or pass base_url=…, such as https://gateway.example; "
            "to try without a gateway, run `kling emulator` in another terminal and use the URL and key that it prints"
        )
        raise ConfigurationError(msg)
    return base_url(text, profile, insecure=insecure)


def origin_of(url: str) -> str:
    """`scheme://host[:port]`, in lower case and without a default port: whom a request goes to.

    Raises:
        ConfigurationError: the URL is not an http(s) address with a host.
    """
    return _origin(_split(url.partition("#")[0].partition("?")[0]))


def on_loopback(url: str) -> bool:
    """Whether the host is this machine, told by the text alone: `localhost`, 127.0.0.0/8 or ::1.

    Raises:
        ConfigurationError: the URL is not an http(s) address with a host.
    """
    host = _split(url.partition("#")[0].partition("?")[0]).hostname or ""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _split(text: str) -> SplitResult:
    problem = ""
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        problem = "is empty or holds a space, a control or a non-ASCII character; look for a stray newline"
    elif not text.lower().startswith(("http://", "https://")):
        problem = "has no scheme; write https://…"
    elif "?" in text or "#" in text:
        problem = "has a query or a fragment; leave away what follows the path"
    else:
        try:
            parts = urlsplit(text)
            port_is_usable = parts.port != 0
        except ValueError:
            problem = "has a malformed host or port; write scheme://host[:port]/path"
        else:
            if "@" in parts.netloc:
                problem = "holds a user name or password; leave them away and pass the key as api_key"
            elif not port_is_usable or not _is_host(parts.hostname or ""):
                problem = "has a malformed host or port; write scheme://host[:port]/path"
            else:
                return parts
    msg = f"base URL: the text {problem}"
    raise ConfigurationError(msg)


def _origin(parts: SplitResult) -> str:
    host = parts.hostname or ""
    shown = f"[{ipaddress.ip_address(host)}]" if ":" in host else host
    port = "" if parts.port in {None, _DEFAULT_PORTS[parts.scheme]} else f":{parts.port}"
    return f"{parts.scheme}://{shown}{port}"


def _is_host(host: str) -> bool:
    return _is_address(host) or _NAME.fullmatch(host) is not None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host  # a zone names an interface of this machine, not a server
