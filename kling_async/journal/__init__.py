"""The durable record of what was asked, accepted, finished and saved."""

from kling_async.journal._journal import Journal
from kling_async.journal._owners import Owner
from kling_async.journal._postgres import PostgresJournal
from kling_async.journal._rows import Artifact, Creation, State

__all__ = ["Artifact", "Creation", "Journal", "Owner", "PostgresJournal", "State"]
