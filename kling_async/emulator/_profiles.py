"""How each kind of server dresses the same facts: paths, envelopes, refusals (`api.md` 1, 8). One class per profile."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

from attrs import frozen

from kling_async.emulator._facts import Refusal
from kling_async.emulator._replies import Reply
from kling_async.emulator._tasks import AcceptedTask, created

_POLL: Final = 15.0
"""Seconds between a converting gateway's own looks at its tasks (`api.md` 8.5)."""
_SATURATED: Final = "当前分组上游负载已饱和，请稍后再试"
"""What new-api writes over every 429, so that nobody can tell one from the other (`api.md` 8.3)."""


@frozen(kw_only=True)
class Profile:
    """A gateway that passes Kling's own envelope through and keeps the door itself: profile `gateway`."""

    new_id: Callable[[], str]
    """Makes request ids."""

    prefix: ClassVar[str] = "/kling/v1"
    lists: ClassVar[bool] = False
    by_key: ClassVar[bool] = False
    """Whether a task is found by its `external_task_id`, and that must then be unique."""
    own_ids: ClassVar[bool] = False
    needs_parent: ClassVar[bool] = True
    """Whether it is of the family that routes `video-extend` and `lip-sync` by the parent's `task_id`."""
    error_type: ClassVar[str] = "one_api_error"

    def relayed(self, route: str, body: dict[str, Any]) -> dict[str, Any] | Reply:
        """The request as the service behind gets it, or the gateway's own refusal."""
        del route
        # Gateways honour the old name of the field; the service itself ignores it (`api.md` section 10).
        return {**body, "model_name": body["model"]} if body.get("model") and not body.get("model_name") else body

    def seen_at(self, task: AcceptedTask, now: float) -> float | None:
        """The moment whose state a read at `now` shows; `None` before the server's first look."""
        del task
        return now

    def accepted(self, task: AcceptedTask, data: Mapping[str, Any]) -> Reply:
        """The answer to a creation, given the service's task object."""
        del task
        return self.envelope(created(data))

    def read(self, task: AcceptedTask, data: Mapping[str, Any], *, looked: bool) -> Reply:
        """The answer to a read, given the service's task object as last seen; not `looked`: as it was created."""
        del task, looked
        return self.envelope(data)

    def listed(self, rows: Sequence[Mapping[str, Any]]) -> Reply:
        """The answer to a list."""
        return self.envelope(rows)

    def posted(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a callback: the task object without its envelope; gateways know no `task_info` there (`api.md` 3.1)."""
        return {key: value for key, value in data.items() if key not in {"task_info", "watermark_info"}}

    def refused(self, refusal: Refusal, http: int | None = None) -> Reply:
        """The service's refusal, under its own HTTP status or another."""
        body = {"code": refusal.code, "message": refusal.message, "request_id": self.new_id()}
        return Reply.json(body, refusal.http if http is None else http)

    def locked(self, refusal: Refusal) -> Reply:
        """The answer to a key that does not open."""
        del refusal
        return self.error(401, f"无效的令牌 (request id: {self.new_id()})", self.error_type)

    def not_found(self, task_id: str) -> Reply:
        """The answer to a task id it does not know. The code is documented nowhere; `api.md` 8.2 guesses this one."""
        return self.refused(Refusal(code=1203, message=f"task {task_id[:80]} does not exist".replace("  ", " ")))

    def no_route(self, method: str, path: str) -> Reply:
        """The answer to a path that is none of its own."""
        return self.error(404, f"Invalid URL ({method} {path})", "invalid_request_error", param="")

    def wrong_method(self, method: str, path: str) -> Reply:
        """The answer to a known path by another method."""
        del method, path
        return self.refused(Refusal.standard(1202))

    def envelope(self, data: Any) -> Reply:
        """Success, as the service says it."""
        return Reply.json({"code": 0, "message": "SUCCEED", "request_id": self.new_id(), "data": data})

    def error(self, status: int, message: str, kind: str, **more: str) -> Reply:
        """A refusal in the gateways' own words."""
        return Reply.json({"error": {"message": message, "type": kind, **more, "code": ""}}, status)


class Official(Profile):
    """The service itself: signed tokens, lists, look-up by external id."""

    prefix = "/v1"
    lists = True
    by_key = True
    needs_parent = False

    def relayed(self, route: str, body: dict[str, Any]) -> dict[str, Any] | Reply:
        """As it came."""
        del route
        return body

    def posted(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The whole task object."""
        return dict(data)

    def locked(self, refusal: Refusal) -> Reply:
        """By its own codes, 1000 to 1004."""
        return self.refused(refusal)

    def no_route(self, method: str, path: str) -> Reply:
        """By its own code."""
        del method, path
        return self.refused(Refusal.standard(1203))


class OneHub(Profile):
    """Kling's envelope with fewer fields, and nothing in it before its own first look."""

    needs_parent = False
    error_type = "one_hub_error"

    def seen_at(self, task: AcceptedTask, now: float) -> float | None:
        """The state of its last round."""
        return _last_round(task, now)

    def accepted(self, task: AcceptedTask, data: Mapping[str, Any]) -> Reply:
        """Kling's, without `task_info`."""
        return super().accepted(task, {key: value for key, value in data.items() if key != "task_info"})

    def read(self, task: AcceptedTask, data: Mapping[str, Any], *, looked: bool) -> Reply:
        """Empty before the first look; then without `task_info`."""
        del task
        if not looked:
            return Reply.json({"code": 0, "message": "", "request_id": "", "data": None})
        return self.envelope({key: value for key, value in data.items() if key not in {"task_info", "watermark_info"}})

    def refused(self, refusal: Refusal, http: int | None = None) -> Reply:
        """The number is lost on the way (`api.md` 8.3)."""
        return Reply.json({"code": "", "message": refusal.message}, refusal.http if http is None else http)

    def not_found(self, task_id: str) -> Reply:
        """In one word."""
        del task_id
        return Reply.json({"code": "task_not_exist", "message": ""}, 404)


class NewApi(Profile):
    """Converted shapes, ids of its own, states as of its last round."""

    own_ids = True
    needs_parent = False
    error_type = "new_api_error"

    def relayed(self, route: str, body: dict[str, Any]) -> dict[str, Any] | Reply:
        """Rebuilt from the few fields it knows (`api.md` section 10)."""
        taken = super().relayed(route, body)
        if route not in {"videos/text2video", "videos/image2video"} or isinstance(taken, Reply):
            return taken
        if not str(taken.get("prompt") or "").strip():
            return self._word("invalid_request", "prompt is required", 400)
        if not isinstance(taken.get("duration") or "", str):
            return self._word("build_request_failed", "json: cannot unmarshal number into field duration of type string", 500)
        kept = {key: value for key, value in taken.items() if key not in _DROPPED and not (key == "cfg_scale" and value == 0)}
        return kept if route == "videos/image2video" or kept.get("aspect_ratio") else {**kept, "aspect_ratio": "1:1"}

    def seen_at(self, task: AcceptedTask, now: float) -> float | None:
        """The state of its last round."""
        return _last_round(task, now)

    def accepted(self, task: AcceptedTask, data: Mapping[str, Any]) -> Reply:
        """An object of its own, in seconds."""
        at = data["created_at"] // 1000
        body = {"id": task.id, "task_id": task.id, "object": "video", "model": task.model, "status": "", "progress": 0, "created_at": at}
        return self._stamped(body)

    def read(self, task: AcceptedTask, data: Mapping[str, Any], *, looked: bool) -> Reply:
        """Its row for the task, the service's last answer inside: at first the one to the creation."""
        data = data if looked else created(data)
        status = data["task_status"]
        word, progress = _NEWAPI_STATUS.get(status, ("UNKNOWN", "30%"))
        started = data["created_at"] // 1000
        files = [entry["url"] for entries in (data.get("task_result") or {}).values() for entry in entries or ()]
        row = {
            "task_id": task.id,
            "action": "generate" if task.body.get("image") else "textGenerate",
            "status": word,
            # Older versions keep the result's link here (`api.md` 8.5).
            "fail_reason": task.reason if status == "failed" else (files[0] if files else ""),
            "submit_time": started,
            "start_time": 0 if status == "submitted" else started,
            "finish_time": data["updated_at"] // 1000 if progress == "100%" else 0,
            "progress": progress,
            "data": self.envelope(data).payload,
        }
        return self._stamped({"code": "success", "message": "", "data": row})

    def refused(self, refusal: Refusal, http: int | None = None) -> Reply:
        """The service's refusal, wrapped; the text of a 429 is lost."""
        status = refusal.http if http is None else http
        if status == 200:  # noqa: PLR2004  HTTP's own number for success
            return self._word("task_failed", refusal.message, 400)
        text = json.dumps({"code": refusal.code, "message": refusal.message, "request_id": self.new_id()}, ensure_ascii=False)
        return self._word("fail_to_fetch_task", _SATURATED if status == 429 else text, status)  # noqa: PLR2004  HTTP's own number

    def not_found(self, task_id: str) -> Reply:
        """A 400."""
        del task_id
        return self._word("task_not_exist", "task_not_exist", 400)

    def wrong_method(self, method: str, path: str) -> Reply:
        """As for an unknown path."""
        return self.no_route(method, path)

    def error(self, status: int, message: str, kind: str, **more: str) -> Reply:
        """In the gateways' words, stamped."""
        return self._stamped({"error": {"message": message, "type": kind, **more, "code": ""}}, status)

    def _word(self, code: str, message: str, status: int) -> Reply:
        return self._stamped({"code": code, "message": message, "data": None}, status)

    def _stamped(self, body: Mapping[str, Any], status: int = 200) -> Reply:
        return Reply.json(body, status, X_Oneapi_Request_Id=self.new_id())


def _last_round(task: AcceptedTask, now: float) -> float | None:
    last = now // _POLL * _POLL
    return last if last > task.created else None


_DROPPED: Final = frozenset({"multi_shot", "multi_prompt", "shot_type", "voice_list", "element_list", "watermark_info"})
"""Fields new-api does not pass on (`api.md` section 10)."""
_NEWAPI_STATUS: Final[Mapping[str, tuple[str, str]]] = {
    "submitted": ("SUBMITTED", "10%"),
    "processing": ("IN_PROGRESS", "30%"),
    "succeed": ("SUCCESS", "100%"),
    "failed": ("FAILURE", "100%"),
}
PROFILES: Final[Mapping[str, type[Profile]]] = {"gateway": Profile, "official": Official, "newapi": NewApi, "onehub": OneHub}
