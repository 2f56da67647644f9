from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from typing import Any

import pytest

from kling_async._pacing import Polling
from kling_async.emulator import Emulator
from kling_async.errors import (
    AccountError,
    AuthenticationError,
    ConfigurationError,
    JournalError,
    KlingError,
    PermissionDeniedError,
    RateLimitError,
    TaskTimeoutError,
    TransportTimeoutError,
)
from kling_async.jobs import Text2Video
from kling_async.journal import State
from kling_async.models import Video
from kling_async.observers import Anomaly, Record, Waiting
from kling_async.session import KlingSession
from kling_async.tasks import TaskHandle

pytestmark = pytest.mark.usefixtures("nothing_is_left")

T2V = "videos/text2video"
Handle = TaskHandle[tuple[Video, ...]]


def gateway(**options: Any) -> Emulator:
    """A gateway with three slots for videos, each of which takes 100 s."""
    return Emulator(**{"slots": {"video": 3}, "durations": 100.0, "seed": 1, **options})


def session(emulator: Emulator, **options: Any) -> KlingSession:
    """A session with that gateway."""
    return KlingSession(emulator.api_key, base_url=emulator.url, **options)


def posts(emulator: Emulator) -> Counter[int | None]:
    """How many creations were answered by which status."""
    return Counter(seen.status for seen in emulator.log.requests if seen.method == "POST")


async def submit(kling: KlingSession, count: int) -> list[asyncio.Future[Handle]]:
    """So many submitted at once, in order, by as many callers."""
    callers: list[asyncio.Future[Handle]] = [asyncio.ensure_future(kling.text2video(prompt=f"fox {number}")) for number in range(count)]
    await asyncio.sleep(0)
    return callers


async def errors_of(callers: list[asyncio.Future[Handle]]) -> list[object]:
    """What each caller got, the error in place of the handle."""
    return list(await asyncio.gather(*callers, return_exceptions=True))


def now() -> float:
    """Seconds of the loop."""
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("in_flight", [None, 3])
async def test_submitting_without_awaiting_never_deadlocks(in_flight: int | None) -> None:
    """Twelve submitted one after the other, and none awaited, all get their slots: the ends of unwatched tasks are seen."""
    async with gateway() as emulator, session(emulator, in_flight=in_flight) as kling:
        begun = now()
        handles = [await kling.text2video(prompt=f"fox {number}") for number in range(12)]
        assert now() - begun <= 3 * (100 + 40)
        assert len(emulator.log.tasks) == 12
        results = await asyncio.gather(*handles)
        assert all(len(videos) == 1 for videos in results)
    assert [task.body["prompt"] for task in emulator.log.tasks] == [f"fox {number}" for number in range(12)]


async def test_a_known_quota_is_never_exceeded() -> None:
    """With `in_flight=3` the service refuses nothing for want of a slot."""
    async with gateway() as emulator, session(emulator, in_flight=3) as kling:
        callers = await submit(kling, 12)
        await asyncio.gather(*[handle.wait() for handle in await asyncio.gather(*callers)])
        assert posts(emulator) == {200: 12}


async def test_an_unknown_quota_is_learnt() -> None:
    """The quota found by asking: all get through in the order they came, at most six refusals each, and in good time."""
    async with gateway() as emulator, session(emulator) as kling:
        begun = now()
        callers = await submit(kling, 12)
        await asyncio.gather(*[handle.wait() for handle in await asyncio.gather(*callers)])
        assert now() - begun <= 4 * (100 + 30)
        assert [task.body["prompt"] for task in emulator.log.tasks] == [f"fox {number}" for number in range(12)]
        assert posts(emulator)[200] == 12
        assert posts(emulator)[429] <= 6 * 12


@pytest.mark.parametrize(("code", "http"), [(1303, 429), (1303, 200), (1303, 400)])
@pytest.mark.parametrize("profile", ["gateway", "onehub", "newapi"])
@pytest.mark.row("K3")
async def test_a_full_service_in_every_dress(profile: str, code: int, http: int) -> None:
    """1303 as 429, in a 200 and as `task_failed` text is waited out, and buys once (K3)."""
    async with gateway(profile=profile) as emulator, session(emulator) as kling:
        emulator.fault("code", route=T2V, method="POST", code=code, http=http, times=2, message="parallel task over resource pack limit")
        await kling.text2video(prompt="a fox", external_task_id="ka-1")
        assert len(emulator.log.posts_for("ka-1")) == 3
        assert len(emulator.log.tasks) == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [(1101, AccountError), (1102, AccountError), (1304, PermissionDeniedError), (1000, AuthenticationError)],
)
@pytest.mark.row("K5")
async def test_a_dry_account_fails_the_queue_fast(code: int, kind: type[KlingError]) -> None:
    """One refusal for money, key or address fails all who queue, at once, and nothing more is sent (K5, K8)."""
    async with gateway() as emulator, session(emulator, in_flight=3) as kling:
        callers = await submit(kling, 3)
        running = await asyncio.gather(*callers)
        emulator.fault("code", route=T2V, method="POST", code=code)
        queued = await submit(kling, 9)
        # Nobody waits for the running ones: it is the queue that has them looked at.
        begun = now()
        failed = await errors_of(queued)
        assert 95 <= now() - begun <= 140
        assert [type(error) for error in failed] == [kind] * 9
        assert len({id(error) for error in failed}) == 9
        assert sum(posts(emulator).values()) == 3 + 1
        with pytest.raises(kind):
            await kling.text2video(prompt="one more")
        assert sum(posts(emulator).values()) == 3 + 1
        await asyncio.gather(*running)
        await asyncio.sleep(61)
        assert await (await kling.text2video(prompt="paid up"))


@pytest.mark.row("K4")
async def test_a_429_that_never_explains_itself() -> None:
    """A gateway that says 429 for ever, without a code, is believed after five minutes (K4)."""
    async with gateway(profile="newapi") as emulator, session(emulator) as kling:
        emulator.fault("code", route=T2V, method="POST", code=1102, times=None)
        begun = now()
        failed = await errors_of(await submit(kling, 3))
        assert 300 <= now() - begun <= 340
        assert [isinstance(error, RateLimitError) for error in failed] == [True] * 3
        assert sum(posts(emulator).values()) <= 20


@pytest.mark.parametrize("awaited", [False, True])
async def test_a_task_that_cannot_be_seen_gives_its_slot_back(*, awaited: bool) -> None:
    """A task of which no look is good any more keeps its slot for its error budget, not for ever; that is told, and it has not failed."""
    told: list[Record] = []
    polling = Polling(error_budget=120.0)
    async with gateway() as emulator, session(emulator, in_flight=1, polling=polling, observers=[told.append]) as kling:
        handle = await kling.text2video(prompt="a fox")
        emulator.fault("status", route=T2V, method="GET", status=503, times=None)
        begun = now()

        async def impatient() -> None:
            while awaited and not handle.done:
                with contextlib.suppress(TaskTimeoutError):
                    await handle.wait(30.0)  # each of these waits has a budget of its own; the slot has one for all

        waiting = asyncio.ensure_future(impatient())
        await kling.text2video(prompt="another")
        assert 120 <= now() - begun <= 120 + 12 + 30
        assert [(record.what, record.ref) for record in told if isinstance(record, Anomaly)] == [("slot-let-go", handle.ref)]
        emulator.clear_faults()
        await waiting
        assert await handle
    assert len(emulator.log.tasks) == 2


@pytest.mark.row("K7")
async def test_asked_too_fast() -> None:
    """After 1302 requests are kept apart until the service has taken some (K7)."""
    async with gateway(slots={"video": 20}) as emulator, session(emulator, in_flight=20) as kling:
        emulator.fault("code", route=T2V, method="POST", code=1302)
        await asyncio.gather(*await submit(kling, 1))
        callers = await submit(kling, 8)
        await asyncio.gather(*callers)
        times = [seen.at for seen in emulator.log.requests if seen.method == "POST"]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert gaps[0] >= 1.0
        assert gaps[1] >= 0.9
        assert gaps[2] >= 0.4
        assert gaps[-1] <= 0.1


@pytest.mark.parametrize("leave", ["cancel", "timeout"])
@pytest.mark.row("K9")
async def test_the_head_of_the_queue_leaves(leave: str) -> None:
    """When the head's caller leaves, nothing was sent for it, and the next one has its turn as if it had never been (K9)."""
    async with gateway() as emulator, session(emulator, in_flight=3) as kling:
        await asyncio.gather(*await submit(kling, 3))
        bound = 20.0 if leave == "timeout" else None
        head = asyncio.ensure_future(kling.submit(Text2Video(prompt="the head", external_task_id="head"), timeout=bound))
        following = asyncio.ensure_future(kling.text2video(prompt="next", external_task_id="next"))
        await asyncio.sleep(20)
        if leave == "cancel":
            head.cancel()
        with pytest.raises(asyncio.CancelledError if leave == "cancel" else TransportTimeoutError):
            await head
        await following
        assert emulator.now <= 140
        assert emulator.log.posts_for("head") == ()
        assert len(emulator.log.posts_for("next")) == 1
        assert (await kling._journal.get("head")).state is State.WITHDRAWN
        assert (await kling.unknowns(), kling.orphans()) == ((), ())


@pytest.mark.row("W2", "W3")
@pytest.mark.parametrize("after", [None, 0.5], ids=["before it began", "between two probes"])
async def test_leaving_before_anything_is_sent(after: float | None) -> None:
    """A caller that leaves before its creation began, or while it waits for another turn, has nothing sent for it any more."""
    async with gateway() as emulator, session(emulator) as kling:
        emulator.fault("code", route=T2V, method="POST", code=1303)
        caller = asyncio.ensure_future(kling.text2video(prompt="a fox", external_task_id="ka-1"))
        if after is not None:
            await asyncio.sleep(after)
            assert (await kling._journal.get("ka-1")).state is State.PREPARED
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await asyncio.sleep(100)
        assert posts(emulator) == ({} if after is None else {429: 1})
        assert emulator.log.tasks == []
        if after is None:
            with pytest.raises(JournalError):
                await kling._journal.get("ka-1")
        else:
            assert (await kling._journal.get("ka-1")).state is State.WITHDRAWN


@pytest.mark.row("K10")
async def test_pictures_do_not_block_videos() -> None:
    """Nine pictures wait for nine slots, and videos go on meanwhile (K10)."""
    async with gateway(slots={"video": 3, "image": 9}) as emulator, session(emulator, in_flight={"image": 9}) as kling:
        await kling.generate_image(prompt="a fox", n=5)
        wide = asyncio.ensure_future(kling.generate_image(prompt="foxes", n=9))
        await asyncio.sleep(0)
        begun = now()
        await kling.text2video(prompt="a fox")
        assert now() - begun < 1
        assert not wide.done()
        await wide
        assert posts(emulator) == {200: 3}


@pytest.mark.row("K11")
async def test_accounts_have_gates_of_their_own() -> None:
    """An account without money stops itself alone (K11)."""
    async with (
        gateway(api_keys=("sk-dry", "sk-rich")) as emulator,
        KlingSession("sk-dry", base_url=emulator.url, in_flight=1) as dry,
        KlingSession("sk-rich", base_url=emulator.url, in_flight=1) as rich,
    ):
        emulator.fault("code", route=T2V, method="POST", code=1102)
        assert [type(error) for error in await errors_of(await submit(dry, 3))] == [AccountError] * 3
        begun = now()
        await rich.text2video(prompt="a fox")
        assert now() - begun < 1


@pytest.mark.row("K12")
async def test_closing_with_a_probe_under_way() -> None:
    """A probe under way when the session closes is settled, nothing is sent after it, and the queue hears of it (K12)."""
    async with gateway() as emulator:
        kling = session(emulator)
        emulator.fault("slow", route=T2V, method="POST", seconds=5.0)
        callers = await submit(kling, 4)
        await asyncio.sleep(1)
        await kling.aclose()
        first, *others = await errors_of(callers)
        assert isinstance(first, TaskHandle)
        assert [type(error) for error in others] == [ConfigurationError] * 3
        await asyncio.sleep(100)
        assert posts(emulator) == {200: 1}
        assert [task.id for task in emulator.log.tasks] == [first.task_id]


@pytest.mark.row("K8")
async def test_a_key_revoked_under_way() -> None:
    """A revoked key stops creations; waits for running tasks go on within their budget, then end with the id (K8)."""
    async with gateway() as emulator, session(emulator, polling=Polling(error_budget=60.0)) as kling:
        handle = await kling.text2video(prompt="a fox")
        await handle.refresh()
        emulator.fault("code", code=1002, times=None)
        with pytest.raises(AuthenticationError):
            await kling.text2video(prompt="another")
        begun = now()
        with pytest.raises(KlingError) as failed:
            await handle
        assert 60 <= now() - begun <= 120
        assert handle.task_id in str(failed.value)


async def test_a_task_that_vanishes_gives_its_slots_back() -> None:
    """A task that the service has forgotten holds no slot for ever."""
    async with gateway() as emulator, session(emulator, in_flight=1) as kling:
        await kling.text2video(prompt="a fox")
        emulator.fault("not_found", route=T2V, method="GET", times=None)
        begun = now()
        await kling.text2video(prompt="another")
        assert now() - begun < 300


@pytest.mark.row("C9")
async def test_a_task_found_late_counts_once() -> None:
    """A creation whose answer was lost, and whose task is found by its key, holds one slot until its task ends, and frees one."""
    async with gateway(profile="official") as emulator, session(emulator, profile="official", in_flight=1) as kling:
        emulator.fault("drop", route=T2V, method="POST", accepted=True)
        await kling.text2video(prompt="lost and found")
        callers = await submit(kling, 3)
        await asyncio.sleep(50)
        assert [caller.done() for caller in callers] == [False] * 3
        await asyncio.gather(*callers)
        assert posts(emulator) == {None: 1, 200: 3}


@pytest.mark.parametrize("in_flight", [None, 1])
async def test_waiting_is_told(in_flight: int | None) -> None:
    """A creation that waits for a slot says so, whether the service or the session's own limit makes it wait."""
    told: list[Record] = []
    async with gateway(slots={"video": 1}) as emulator, session(emulator, observers=[told.append], in_flight=in_flight) as kling:
        await kling.text2video(prompt="a fox")
        await kling.text2video(prompt="another", external_task_id="ka-2")
    assert {record for record in told if isinstance(record, Waiting)} == {Waiting(why="slot", external_task_id="ka-2")}
