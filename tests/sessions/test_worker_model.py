"""The session worker against a simple model, in random sequences of everything that can happen to a session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sdqueue.sessions import AsyncioLockBackend, InMemorySessionStore, Retention, SessionWorker, TurnOutcome
from tests.sessions.stubs import KINDS, Durable, Lazy, ModelDown, NoAssist

VALUES = st.one_of(st.none(), st.booleans(), st.integers(0, 1), st.sampled_from(["", "x"]), st.just([1]))
WORKER = st.sampled_from("ab")
STEPS = st.lists(
    st.sampled_from(["turn", "stream", "leave at the end", "fail", "hang", "note"]), min_size=1, max_size=4
)


class SessionModel(RuleBasedStateMachine):
    """What is stored is at every moment what the steps that ended well have made of it."""

    @initialize(agent=st.sampled_from(KINDS), max_sessions=st.integers(0, 2))
    def begin(self, agent: Any, max_sessions: int) -> None:
        self.runner = asyncio.Runner()
        self.agent = agent
        self.store = InMemorySessionStore()
        locks = AsyncioLockBackend()
        self.locks = locks
        self.workers = {
            name: SessionWorker(agent_factory=agent, store=self.store, lock_backend=locks, max_sessions=max_sessions)
            for name in "ab"
        }
        self.count = 0
        self.forget()

    def forget(self) -> None:
        self.exists = False
        self.lines: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.metadata: dict[str, Any] = {}
        self.outcomes: list[str] = []

    def text(self) -> str:
        self.count += 1
        return f"text {self.count}"

    def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.runner.run(work())

    async def do(self, handle: Any, step: str) -> None:
        """Do a step, with its effect on the model; one that fails has none."""
        if step == "note":
            handle.assist(note := self.text())
            self.lines.append(("system", note))
            return
        if step in ("fail", "hang"):
            try:
                async with asyncio.timeout(0):
                    await handle.turn(step)
            except (ModelDown, TimeoutError):
                return
            raise AssertionError("it should have failed")
        text = self.text()
        answer = f"{sum(role == 'user' for role, _ in self.lines) + 1}: {text}"
        if step == "turn":
            await handle.turn(text)
        else:
            async for chunk in await handle.turn(text, stream=True):
                if step == "barge in":
                    answer = answer if self.agent in (Lazy, NoAssist) else chunk.text
                    break
                if chunk.done and step == "leave at the end":
                    break
        self.lines += [("user", text), ("assistant", answer)]
        self.texts.append(text)

    @rule(name=WORKER, steps=STEPS, value=VALUES)
    def work(self, name: str, steps: list[str], value: Any) -> None:
        async def work() -> None:
            async with self.workers[name].acquire("s") as handle:
                for step in steps:
                    await self.do(handle, step)
                handle.session.metadata["value"] = value
            self.metadata["value"] = value
            self.exists = True

        self.run(work)

    @rule(name=WORKER, steps=STEPS)
    def work_in_vain(self, name: str, steps: list[str]) -> None:
        before = (list(self.lines), list(self.texts))

        async def work() -> None:
            async with self.workers[name].acquire("s", turn_id="vain") as handle:
                for step in steps:
                    await self.do(handle, step)
                handle.session.metadata["value"] = "vain"
                handle.remember(TurnOutcome("vain", 0.0, ()), Retention())
                raise ModelDown

        try:
            self.run(work)
        except ModelDown:
            self.lines, self.texts = before

    @rule(name=WORKER, remember=st.booleans())
    def look(self, name: str, remember: bool) -> None:
        async def work() -> None:
            async with self.workers[name].acquire("s") as handle:
                assert [handle.recall(turn_id) is not None for turn_id in self.outcomes] == [True] * len(self.outcomes)
                if remember:
                    turn_id = self.text()
                    handle.remember(TurnOutcome(turn_id, float(self.count), (turn_id,)), Retention())
                    self.outcomes.append(turn_id)
            self.exists = True

        self.run(work)

    @rule(name=WORKER, then=st.booleans())
    def reset(self, name: str, then: bool) -> None:
        async def work() -> None:
            async with self.workers[name].acquire("s") as handle:
                handle.reset()
                self.lines, self.texts = [], []
                if then:
                    await self.do(handle, "turn")
            self.exists = True

        self.run(work)

    @rule(name=WORKER)
    def close(self, name: str) -> None:
        self.run(lambda: self.workers[name].close_session("s"))

    @rule(name=WORKER)
    def evict(self, name: str) -> None:
        async def work() -> None:
            for other in "xy":
                async with self.workers[name].acquire(other) as handle:
                    await handle.turn("hello")

        self.run(work)

    @rule()
    def delete(self) -> None:
        self.run(lambda: self.store.delete("s"))
        self.forget()

    @invariant()
    def the_store_has_what_the_model_has(self) -> None:
        if not hasattr(self, "runner"):
            return
        record = self.runner.run(self.store.load("s"))
        assert (record is not None) == self.exists
        if record is None:
            return
        assert [(m.role, m.content) for m in record.chat_ctx.items] == self.lines
        assert repr(record.metadata) == repr(self.metadata)
        assert list(record.turns.outcomes) == self.outcomes
        if self.agent is Lazy:
            texts = record.flow_state.userdata["texts"] if record.flow_state else []
            assert texts == self.texts
        if self.agent is Durable:
            assert (record.agent_state or {"texts": []})["texts"] == self.texts

    @invariant()
    def nothing_is_left_behind(self) -> None:
        if hasattr(self, "runner"):
            assert self.locks.entries == 0
            assert not any(worker._in_use for worker in self.workers.values())

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.close()


TestSessionModel = SessionModel.TestCase
TestSessionModel.settings = settings(
    max_examples=150,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
