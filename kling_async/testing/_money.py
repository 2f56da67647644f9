"""Money counted by who saw it spent: what the emulator accepted, whatever its answers said."""

from __future__ import annotations

from collections import defaultdict

from kling_async.emulator import AcceptedTask, Emulator

__all__ = ["assert_bought_once", "duplicates"]


def duplicates(emulator: Emulator) -> dict[str, tuple[AcceptedTask, ...]]:
    """The tasks that were bought more than once, by the `external_task_id` that they share. Empty, if all is well."""
    bought: defaultdict[str, list[AcceptedTask]] = defaultdict(list)
    for task in emulator.log.tasks:
        if task.external_task_id is not None:
            bought[task.external_task_id].append(task)
    return {key: tuple(tasks) for key, tasks in bought.items() if len(tasks) > 1}


def assert_bought_once(emulator: Emulator, external_task_id: str) -> AcceptedTask:
    """The one task that was accepted under this key, however often it was asked for.

    Raises:
        AssertionError: there is none, or more than one; says what was asked and answered.
    """
    tasks = [task for task in emulator.log.tasks if task.external_task_id == external_task_id]
    if len(tasks) != 1:
        posts = "; ".join(_told(post.at, post.status, post.fault) for post in emulator.log.posts_for(external_task_id))
        raise AssertionError(f"{external_task_id} was bought {len(tasks)} times, not once; requests: {posts or 'none'}")
    return tasks[0]


def _told(at: float, status: int | None, fault: str | None) -> str:
    return f"at {at:.1f} s {'not answered' if status is None else f'answered {status}'}{f' ({fault})' if fault else ''}"
