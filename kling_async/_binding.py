"""Which event loop and process something belongs to: those it is first used in."""

from __future__ import annotations

import asyncio
import os

from attrs import define, field

from kling_async._fault import ConfigurationError

__all__ = ["Binding"]


@define(eq=False)
class Binding:
    """The loop and the process of a session, and whether it is over."""

    closed: bool = False
    _loop: asyncio.AbstractEventLoop | None = field(default=None, init=False)
    _pid: int = field(default=0, init=False)

    @property
    def used(self) -> bool:
        """Whether it is bound already."""
        return self._loop is not None

    def check(self) -> None:
        """Bind to the running loop, or see that it is the one.

        Raises:
            ConfigurationError: it is closed, or belongs to another loop or process.
        """
        if self.closed:
            msg = "this KlingSession is closed; make a new one"
            raise ConfigurationError(msg)
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop, self._pid = loop, os.getpid()
        elif self._loop is not loop or self._pid != os.getpid():
            msg = "this KlingSession belongs to another event loop or process; make one in each, and hand over refs as text"
            raise ConfigurationError(msg)
