"""Whose account a command works on: the key of the environment, else of the person at the terminal; never of an argument."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from getpass import getpass
from typing import Final

from kling_async._auth import Credentials, credentials_in
from kling_async.cli._options import Connection

__all__ = ["key_at_hand", "key_for"]

_NAMES: Final = (_API := "KLING_API_KEY", _ACCESS := "KLING_ACCESS_KEY", _SECRET := "KLING_SECRET_KEY")


def key_at_hand() -> Credentials | None:
    """The key of the environment; a variable that is empty is not set.

    Raises:
        ConfigurationError: it cannot be one, or it is half of a pair.
    """
    return credentials_in(_told(os.environ))


def key_for(options: Connection) -> Credentials | None:
    """The key of the environment, else, where an address is set, of the person at the terminal; `None` where nobody is there to ask.

    Raises:
        ConfigurationError: it cannot be one, or it is half of a pair.
    """
    known = _told(os.environ)
    if options.base_url and sys.stdin.isatty() and sys.stderr.isatty():
        known |= _told(_typed(known, pairs=options.profile == "official"))
    return credentials_in(known)


def _typed(known: Mapping[str, str], *, pairs: bool) -> dict[str, str]:
    if _API in known or _SECRET in known:
        return {}
    if _ACCESS in known:
        return {_SECRET: getpass("Secret key (KLING_SECRET_KEY is not set): ")}
    if not pairs:
        return {_API: getpass("API key (KLING_API_KEY is not set): ")}
    key = getpass("API key or access key (KLING_API_KEY is not set): ")
    secret_key = getpass("Secret key (just Enter after an API key): ")
    return {_ACCESS: key, _SECRET: secret_key} if secret_key else {_API: key}


def _told(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: environ[name] for name in _NAMES if environ.get(name)}
