"""A state machine plays service, network, users and death against a session, and looks after each move whether money or a task was lost."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from kling_async._fault import KlingError
from kling_async.errors import TaskFailedError
from kling_async.jobs import Text2Video
from kling_async.journal import State
from kling_async.models import Status
from mortals import (
    CREATIONS,
    EITHER,
    FINAL,
    GET_FAULTS,
    MOMENTS,
    REFUSALS,
    SETTLED,
    Call,
    Followed,
    Handle,
    Process,
    Street,
)

pytestmark = pytest.mark.exhaustive


class Market(Street):
    """What can happen, and what must hold whatever does."""

    @initialize(creations=st.lists(CREATIONS, min_size=1, max_size=3), moment=st.sampled_from(MOMENTS), again=EITHER)
    def open_for_business(self, creations: list[dict[str, Any]], moment: str, *, again: bool) -> None:
        self.last = moment, again
        for creation in creations:
            self.create(**creation)

    @rule(creation=CREATIONS)
    def create_one(self, creation: dict[str, Any]) -> None:
        self.create(**creation)

    @rule(creations=st.lists(CREATIONS, min_size=2, max_size=4))
    def create_some(self, creations: list[dict[str, Any]]) -> None:
        for creation in creations:
            self.create(**creation)

    def create(
        self,
        *,
        number: int,
        word: str | None,
        fails: bool,
        timeout: float | None,
        waiters: int,
        fault: tuple[str, bool, dict[str, Any]] | None,
        seconds: float,
    ) -> None:
        """Somebody asks for a clip; `waiters` will await it, if there is one to await."""
        if fault is not None:
            name, accepted, options = fault
            self.emulator.fault(name, method="POST", accepted=accepted, **options)
        self.number += 1
        prompt = word or f"clip {self.number}{' [fail]' if fails else ''}"
        process = self.processes[number % len(self.processes)]
        call = self.run(self._create(process, prompt, None if word else f"k-{self.number}", timeout))
        call.waiters = waiters
        self.advance(seconds)

    async def _create(self, process: Process, prompt: str, key: str | None, timeout: float | None) -> Call:
        job = Text2Video(prompt=prompt, external_task_id=key)
        work = process.kling.submit(job, dedupe=None if key else prompt, timeout=timeout)
        call = Call(asyncio.ensure_future(work), prompt, key)
        process.calls.append(call)
        await asyncio.sleep(0)
        return call

    @rule(number=st.integers(0, 9))
    def leave(self, number: int) -> None:
        for call in self.pick(self.calls(waits=False), number):
            self._note_sends(call)
            self.run(self._leave(call))

    @rule(number=st.integers(0, 9), waiters=st.integers(1, 3))
    def follow(self, number: int, waiters: int) -> None:
        for process, followed in self.pick(self.followed(), number):
            self.run(self._follow(process, followed.handle, waiters))

    async def _follow(self, process: Process, handle: Handle, waiters: int) -> None:
        prompt = self.prompt_of(handle.task_id)
        process.calls += [Call(asyncio.ensure_future(handle.wait()), prompt, handle=handle) for _ in range(waiters)]
        await asyncio.sleep(0)

    @rule(number=st.integers(0, 9))
    def unfollow(self, number: int) -> None:
        for call in self.pick(self.calls(waits=True), number):
            self.run(self._leave(call))

    async def _leave(self, call: Call) -> None:
        call.left = call.task.cancel()
        await asyncio.gather(call.task, return_exceptions=True)

    @rule(number=st.integers(0, 9), lie=st.sampled_from(["", "stale", "unknown_status", "contradiction"]))
    def look(self, number: int, lie: str) -> None:
        """Somebody looks at a finished task, or at any; the service may have forgotten what it said, or say the opposite."""
        tasks = self.emulator._service.tasks
        finished = [each for each in self.followed() if each[1].end]
        for _, followed in self.pick(finished or self.followed(), number):
            task = tasks[followed.handle.task_id]
            if lie == "contradiction" and finished:
                tasks[task.id] = evolve(task, reason="" if task.reason else "changed its mind")
                self.liars.add(task.id)
            elif lie in {"stale", "unknown_status"}:
                self.emulator.fault(lie, method="GET")
            with contextlib.suppress(KlingError):
                self.run(followed.handle.refresh())

    @rule(number=st.integers(0, 9), adopts=EITHER)
    def recover(self, number: int, *, adopts: bool) -> None:
        """A process takes over what it finds; perhaps somebody has looked into the service's console."""
        process = self.processes[number % len(self.processes)]
        process.handles += map(Followed, self.run(process.kling.recover()))
        for creation in self.run(process.kling.unknowns()) if adopts else ():
            for task in self.emulator.log.tasks:
                if task.external_task_id == creation.key:
                    process.handles.append(Followed(self.run(process.kling.adopt(creation.key, task.id))))

    # Service, network, time

    @rule(name=GET_FAULTS)
    def spoil_look(self, name: str) -> None:
        self.emulator.fault(name, method="GET")

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 20.0, 70.0, 200.0]))
    def advance(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    # Life and death

    @rule(number=st.integers(0, 1), moment=st.sampled_from(MOMENTS), again=EITHER)
    def crash(self, number: int, moment: str, *, again: bool) -> None:
        """A process dies at a moment of a purchase of its own; perhaps another one then asks for the same."""
        process = self.processes[number % len(self.processes)]
        self.number += 1
        prompt, key = f"clip {self.number}", f"k-{self.number}"
        self.run(self._reach(process, moment, prompt, key))
        self.run(process.die())
        for call in process.calls:
            if call.key != key or not again:
                self._note_sends(call)
        self._gone(process)
        if again:
            self.run(self._create(self.processes[0], prompt, key, None))

    def _note_sends(self, call: Call) -> None:
        """Of what nobody wants any more no request starts; for what is bought under a word, somebody else may."""
        if call.key is not None:
            row = self.rows().get(call.key)
            self.most.setdefault(call.prompt, row.attempt if row else 0)

    async def _reach(self, process: Process, moment: str, prompt: str, key: str) -> None:
        process.journal.stops_at = moment
        work = process.kling.run(Text2Video(prompt=prompt, external_task_id=key))
        process.calls.append(Call(asyncio.ensure_future(work), prompt, key))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(200):
                await process.journal.stopped.wait()

    @rule(number=st.integers(0, 9))
    def close(self, number: int) -> None:
        process = self.processes[number % len(self.processes)]
        self.run(process.kling.aclose())
        self.run(self._hear(process))
        self._gone(process)

    async def _hear(self, process: Process) -> None:
        outcomes = await asyncio.gather(*(call.task for call in process.calls), return_exceptions=True)
        for call, outcome in zip(process.calls, outcomes, strict=True):
            assert call.left or not isinstance(outcome, BaseException) or isinstance(outcome, KlingError), (call, outcome)
        await process.journal.aclose()

    def _gone(self, process: Process) -> None:
        self.processes.remove(process)
        if not self.processes:
            self.processes.append(self.process())

    @rule()
    def start(self) -> None:
        if len(self.processes) == 1:
            self.processes.append(self.process())

    # What must hold after every move

    def prompt_of(self, task_id: str) -> str:
        return next(str(task.body["prompt"]) for task in self.emulator.log.tasks if task.id == task_id)

    @invariant()
    def nothing_is_bought_twice(self) -> None:
        """P1, P3: by what was asked for, so that a second send under another key counts too."""
        asked = [seen for seen in self.emulator.log.requests if seen.method == "POST"]
        bought = [task.body["prompt"] for task in self.emulator.log.tasks]
        for prompt in {seen.body["prompt"] for seen in asked}:
            posts = [seen for seen in asked if seen.body["prompt"] == prompt]
            refused = [seen for seen in posts if seen.status in REFUSALS and seen.task_id is None]
            assert len(posts) <= 1 + len(refused), posts
            assert bought.count(prompt) <= 1, prompt
            assert len(posts) <= self.most.get(prompt, len(posts)), f"{prompt}: sent after its caller had gone"

    @invariant()
    def nothing_is_lost(self) -> None:
        """P2: the id is in the file, or the key is, as something to be asked about."""
        rows = self.rows()
        for task in self.emulator.log.tasks:
            row = rows[str(task.external_task_id)]
            assert row.task_id == task.id or row.state in {State.SENDING, State.UNKNOWN}, (task.id, row)
        for key, before in self.known.items():
            assert before.task_id in {None, rows[key].task_id}, (before, rows[key])
            assert before.state not in FINAL or rows[key].state is before.state, (before, rows[key])
        self.known = rows

    @invariant()
    def everybody_hears_the_truth(self) -> None:
        """P7: who has not left is not cancelled, and what is heard is so."""
        for process in self.processes:
            for call in [call for call in process.calls if call.task.done()]:
                process.calls.remove(call)
                if call.left:
                    continue
                assert not call.task.cancelled(), call
                error = call.task.exception()
                assert error is None or isinstance(error, KlingError), error
                if call.handle is not None:
                    self._check_end(call.handle, error)
                elif error is None:
                    assert self.prompt_of(call.task.result().task_id) == call.prompt
                    row = self.rows()[call.task.result().ref.external_task_id]
                    assert row.task_id == call.task.result().task_id, "told before it was recorded"
                    process.handles.append(Followed(call.task.result()))
                    self.run(self._follow(process, call.task.result(), call.waiters))

    async def _now(self) -> float:
        return self.emulator.now

    def _check_end(self, handle: Handle, error: BaseException | None) -> None:
        task = self.emulator._service.tasks[handle.task_id]
        if task.id not in self.liars and (error is None or isinstance(error, TaskFailedError)):
            assert task.status_at(self.run(self._now())) == ("failed" if error else "succeed"), (task, error)

    @invariant()
    def the_end_is_the_end(self) -> None:
        """P10: whatever is said of a task later, its final status and result stay."""
        for _, followed in self.followed():
            now = followed.handle.snapshot
            if followed.end is not None:
                assert now is not None
                assert followed.handle.done
                assert (now.status, [each.id for each in now.videos]) == (followed.end.status, [each.id for each in followed.end.videos])
            elif followed.handle.done:
                assert now is not None
                assert now.status in {Status.SUCCEED, Status.FAILED}
                followed.end = now

    def teardown(self) -> None:
        """Let everything end, then ask a last process what it finds."""
        try:
            if sys.exc_info()[0] is None:
                self.end()
        finally:
            for process in self.processes:
                self.run(process.die())
            self.run(self.emulator.aclose())
            self.runner.close()
        assert self.complaints == []

    def end(self) -> None:
        self.emulator.clear_faults()
        moment, again = self.last
        self.crash(0, moment, again=again)  # every history has a death, for the rules are drawn too seldom to count on one
        for _ in range(2):  # purchases, then those who await what was bought
            self.advance(SETTLED)
            for check in (self.nothing_is_bought_twice, self.nothing_is_lost, self.everybody_hears_the_truth, self.the_end_is_the_end):
                check()
        assert [call for process in self.processes for call in process.calls] == []
        while len(self.processes) > 1:
            self.close(0)
        self.close(0)
        self.recover(0, adopts=False)
        unknown = {creation.key for creation in self.run(self.processes[0].kling.unknowns())}
        for key, row in self.rows().items():
            assert row.state in {*FINAL, State.ACCEPTED, State.REJECTED, State.WITHDRAWN} or key in unknown, (key, row)
        if self.profile == "official":
            assert unknown.isdisjoint(task.external_task_id for task in self.emulator.log.tasks)
        for _, followed in self.followed():
            self.run(self._follow(self.processes[0], followed.handle, 1))
        self.advance(SETTLED)
        self.everybody_hears_the_truth()
        self.close(0)


@pytest.mark.row("C9", "C10", "Q8")
@pytest.mark.parametrize("profile", ["gateway", "official"])
def test_whatever_happens(profile: str, tmp_path: Path, anyio_backend: tuple[str, dict[str, Any]]) -> None:
    """In any order of creations, faults, departures, deaths and recoveries nothing is bought twice, lost, or moved once it is final."""
    run_state_machine_as_test(
        lambda: Market(profile, tmp_path, anyio_backend[1]["loop_factory"]),  # type: ignore[arg-type]  # it is called, and nothing else
        settings=settings(
            max_examples=25,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
