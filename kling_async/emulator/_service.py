"""The service behind the gateway: who gets a task, what it will become, who holds how many slots. Pure but for its dice."""

from __future__ import annotations

import math
import random
import string
from collections.abc import Mapping
from typing import Any, Final

from attrs import define, field

from kling_async.emulator._facts import DAY, LIMITS, MODELS, Refused, endpoint_of
from kling_async.emulator._scenes import EXTENSION_SECONDS, scenes
from kling_async.emulator._studio import Scene
from kling_async.emulator._tasks import QUEUED_SHARE, AcceptedTask, Entry, Marks, Parent, shortened
from kling_async.emulator._validate import Vetted

_UNKNOWN_PARENT_SECONDS: Final = 5.0
_CHILDREN: Final = {"videos/video-extend": "", "videos/lip-sync": "input."}
"""Routes that start from a clip → where in the body it is named."""


@define(kw_only=True)
class Service:
    """All accounts of one emulator."""

    slots: Mapping[str, int]
    """Tasks at once, per kind and account."""
    durations: Mapping[str, float]
    """Seconds a task takes, by route or by kind; the average of `api.md` section 9 where silent."""
    dice: random.Random
    own_ids: bool = False
    """Whether callers get ids of the gateway's making, as behind new-api."""
    unique_keys: bool = False
    """Whether an `external_task_id` may be used once only."""
    strict_parent: bool = False
    """Whether `video-extend` and `lip-sync` need the `task_id` of a parent made here."""
    tasks: dict[str, AcceptedTask] = field(factory=dict)
    _clips: dict[str, tuple[AcceptedTask, Entry]] = field(factory=dict, init=False)
    _keys: dict[tuple[str, str], AcceptedTask] = field(factory=dict, init=False)
    _running: list[AcceptedTask] = field(factory=list, init=False)

    def accept(
        self, body: Mapping[str, Any], vetted: Vetted, *, account: str, route: str, kind: str, now: float, marks: Marks
    ) -> AcceptedTask:
        """Take a checked request.

        Raises:
            Refused: by policy, for a used key, a wrong parent, or for want of slots.
        """
        if marks.block:
            raise Refused(1301, "Failure to pass the content safety policy")
        key = body.get("external_task_id") or None
        if self.unique_keys and (account, key) in self._keys:
            # The reply to a used key is documented nowhere; this is the reading of `api.md` section 7.
            raise Refused(1201, f"external_task_id: {key} is already used")
        parent, before = self._parent(route, body, account=account, now=now)
        shots = scenes(route, body, vetted, parent=parent, before=before)
        cost = len(shots) if kind == "image" else 1
        self._running = [task for task in self._running if not task.ended(now)]
        held = sum(task.slots for task in self._running if task.account == account and task.kind == kind)
        if held + cost > self.slots.get(kind, 1):
            raise Refused(1303, "parallel task over resource pack limit")
        takes = self._seconds(route, kind) if marks.seconds is None else marks.seconds
        service_id = self._number()
        task = AcceptedTask(
            id=f"task_{self._letters()}" if self.own_ids else service_id,
            service_id=service_id,
            route=route,
            kind=kind,
            account=account,
            slots=cost,
            external_task_id=key,
            body=shortened(body),
            model=vetted.model or (before.model if before else ""),
            created=now,
            processing=now + takes * QUEUED_SHARE,
            finished=math.inf if marks.stuck else now + takes,
            reason=vetted.flaw if marks.fail is None else marks.fail,
            entries=tuple(Entry(id=self._number(), scene=scene) for scene in shots),
            parent=parent,
            watermark=(body.get("watermark_info") or {}).get("enabled"),
            callback_url=body.get("callback_url") or None,
        )
        self.tasks[task.id] = task
        self._running.append(task)
        if key:
            self._keys[account, key] = task
        self._clips.update({entry.id: (task, entry) for entry in task.entries})
        return task

    def find(self, account: str, route: str, name: str, *, by_key: bool) -> AcceptedTask | None:
        """The account's task of that id, or, `by_key`, of that external id; only under the route that made it."""
        task = self.tasks.get(name) or (self._keys.get((account, name)) if by_key else None)
        return task if task and task.account == account and task.route == route else None

    def listed(self, account: str, route: str) -> list[AcceptedTask]:
        """The account's tasks of a route, newest first."""
        return [task for task in reversed(self.tasks.values()) if task.account == account and task.route == route]

    def held(self, now: float) -> dict[str, dict[str, int]]:
        """Account → kind → slots that its running tasks hold."""
        found: dict[str, dict[str, int]] = {}
        for task in self._running:
            if not task.ended(now):
                account = found.setdefault(task.account, {})
                account[task.kind] = account.get(task.kind, 0) + task.slots
        return found

    def scene_of(self, task_id: str, entry_id: str, now: float) -> Scene | None:
        """What a result file shows; `None` when it does not exist, not yet or not any more."""
        clip = self._clips.get(entry_id)
        if clip is None or clip[0].id != task_id or clip[0].status_at(now) != "succeed":
            return None
        task, entry = clip
        return entry.scene if now < task.finished + LIMITS["retention_days"] * DAY else None

    def clear(self) -> None:
        """Forget every task."""
        self.tasks.clear()
        self._clips.clear()
        self._keys.clear()
        self._running.clear()

    def _seconds(self, route: str, kind: str) -> float:
        return self.durations.get(route, self.durations.get(kind, endpoint_of(route).seconds))

    def _parent(self, route: str, body: Mapping[str, Any], *, account: str, now: float) -> tuple[Parent | None, Scene | None]:
        if route not in _CHILDREN:
            return None, None
        at, given = _CHILDREN[route], body["input"] if _CHILDREN[route] else body
        url, video_id = given.get("video_url"), str(given.get("video_id"))
        if url:
            return Parent(id="", seconds=_UNKNOWN_PARENT_SECONDS, url=url), None
        clip = self._clips.get(video_id)
        if clip and (clip[0].account != account or clip[0].status_at(now) != "succeed" or clip[1].scene.kind != "video"):
            clip = None
        if self.strict_parent and (clip is None or given.get("task_id") != clip[0].id):
            raise Refused(1201, f"{at}task_id: must be the task that made {at}video_id {video_id[:80]}")
        if clip is None:
            # A clip made before this emulator started, for all it knows.
            return Parent(id=video_id, seconds=_UNKNOWN_PARENT_SECONDS), None
        task, entry = clip
        _check_parent(route, task, entry.scene.seconds, at=f"{at}video_id", now=now)
        return Parent(id=video_id, seconds=entry.scene.seconds, task_id=task.id), entry.scene

    def _number(self) -> str:
        # 18 digits (`api.md` 2.4), so that a client which reads them as floats loses the last ones.
        return str(self.dice.randrange(8 * 10**17, 9 * 10**17))

    def _letters(self) -> str:
        return "".join(self.dice.choices(string.ascii_letters + string.digits, k=32))


def _check_parent(route: str, task: AcceptedTask, seconds: float, *, at: str, now: float) -> None:
    if now > task.finished + LIMITS["retention_days"] * DAY:
        raise Refused(1201, f"{at}: the video is older than {LIMITS['retention_days']} days")
    if route == "videos/lip-sync":
        low, high = LIMITS["lip_sync_seconds"]
        if not low <= seconds <= high:
            raise Refused(1201, f"{at}: the video must be {low} to {high} seconds long, it is {seconds:g}")
        return
    if not MODELS.get(task.model, {}).get("extends"):
        raise Refused(1201, f"{at}: a video of {task.model} cannot be extended")
    if seconds + EXTENSION_SECONDS > LIMITS["extend_total_seconds"]:
        raise Refused(1201, f"{at}: the video would be longer than {LIMITS['extend_total_seconds']} seconds")
