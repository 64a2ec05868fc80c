"""What becomes of a turn that arrives while another one of its session runs: four policies, by channel."""

from __future__ import annotations

import asyncio

import pytest

from sdqueue.channels import DoubleTexting, PerChannel
from sdqueue.consumer.settlement import Settlement
from sdqueue.consumer.work import Work
from sdqueue.errors import StoreUnavailable
from sdqueue.messages import DeadTurn
from sdqueue.sessions import Retention
from tests.consumer.stand import Act, Puppet, Stand, Waiting, failing

COLLECT = PerChannel(DoubleTexting.COLLECT)
INTERRUPT = PerChannel(DoubleTexting.INTERRUPT)
REJECT = PerChannel(DoubleTexting.REJECT)


async def said(stand: Stand, session: str) -> list[str]:
    record = await stand.record(session)
    return [message.content for message in record.chat_ctx.items if message.role == "user"]


class TestCollect:
    async def test_all_that_wait_become_one_turn_which_answers_the_last(self, stand: Stand) -> None:
        act = Waiting()
        async with stand.running({"wait": act}, double_texting=COLLECT) as member:
            await stand.send("s", "wait", id="1")
            await act.began.acquire()
            for n in "234":
                await stand.send("s", f"text {n}", id=n)
            await member.watcher.expect("turn_received", 4)
            act.go_on.set()
            last = await stand.expect_reply("4")
            others = [await stand.expect_reply(n) for n in "23"]
            settled = await member.watcher.expect_settled(4)
        assert last.text == "2. text 2\ntext 3\ntext 4"
        assert [(r.text, r.metadata["superseded_by"]) for r in others] == [("", "4"), ("", "4")]
        assert [r.seq for r in (*others, last)] == [2, 3, 4]
        assert settled == [("1", "completed"), ("2", "superseded"), ("3", "superseded"), ("4", "completed")]
        assert await said(stand, "s") == ["wait", "text 2\ntext 3\ntext 4"]
        assert await stand.depth() == 0

    async def test_a_control_turn_and_another_channel_keep_their_place(self, stand: Stand) -> None:
        act = Waiting()
        await stand.broker.declare_egress("other")
        async with stand.running({"wait": act}, double_texting=COLLECT) as member:
            await stand.send("s", "wait", id="1")
            await act.began.acquire()
            await stand.send("s", "a", id="2")
            await stand.send("s", "note", kind="assist", id="3")
            await stand.send("s", "b", id="4")
            await stand.send("s", "c", id="5", channel="other")
            await member.watcher.expect("turn_received", 5)
            act.go_on.set()
            await member.watcher.expect_settled(5)
        assert await said(stand, "s") == ["wait", "a", "b", "c"]

    async def test_what_belongs_behind_a_backlog_is_not_taken_along_by_the_first_of_it(self, stand: Stand) -> None:
        """Given a consumer that has died with a turn running, others in the backlog, and one more delivered since."""
        act = Waiting()
        first = stand.member({"wait": act}, double_texting=COLLECT, mailbox_size=1, grace_s=0.0)
        async with stand.started(first):
            await stand.send("s", "wait", id="1")
            await act.began.acquire()
            for n in "23":
                await stand.send("s", n, id=n)
            await first.watcher.expect_settled(2)
            first.cut_off()
            first.stop_at_once()
        assert [turn.turn_id for turn in await stand.store.deferred("s", count=10)] == ["1", "2", "3"]
        await stand.send("s", "4", id="4")
        second = stand.member(double_texting=COLLECT)
        loading = second.faults.freeze("load")
        async with stand.started(second):
            await loading.expect_reached()
            await second.watcher.expect("turn_received", 2)
            loading.go_on.set()
            await stand.expect_reply("4")
        assert "\n".join(await said(stand, "s")).split("\n") == ["wait", "2", "3", "4"]

    async def test_a_repeat_among_them_is_said_once_and_answered_as_the_first_was(self, stand: Stand) -> None:
        act = Waiting()
        async with stand.running({"wait": act}, double_texting=COLLECT) as member:
            await stand.send("s", "wait", id="1")
            await act.began.acquire()
            for n in ("2", "1", "3", "2", "4"):
                await stand.send("s", n, id=n)
            await member.watcher.expect("turn_received", 6)
            act.go_on.set()
            await member.watcher.expect_settled(6)
        assert (await said(stand, "s"))[0] == "wait"
        assert "\n".join((await said(stand, "s"))[1:]).split("\n") == ["2", "3", "4"]
        assert len({reply.text for reply in stand.replies if reply.turn_id == "2"}) == 1

    @pytest.mark.parametrize("point", ["save", "saved", "reply", "reply confirmed"])
    async def test_a_crash_answers_each_of_them_once(self, stand: Stand, point: str) -> None:
        """Given a consumer that dies at a step of the joint turn, another one makes up for all that it had taken."""
        act = Waiting()
        member = stand.member({"wait": act}, double_texting=COLLECT, grace_s=0.0)
        async with stand.started(member):
            await stand.send("s", "wait", id="1")
            await act.began.acquire()
            for n in "23":
                await stand.send("s", n, id=n)
            await member.watcher.expect("turn_received", 3)
            act.go_on.set()
            await stand.expect_reply("1")
            fault = member.faults.freeze(point)
            await fault.expect_reached()
            member.cut_off()
            member.stop_at_once()
        async with stand.running(double_texting=COLLECT):
            await stand.send("s", "after", id="9")
            await stand.expect_reply("9")
        assert "\n".join(await said(stand, "s")).split("\n") == ["wait", "2", "3", "after"]
        for turn in ("2", "3"):
            assert len({r.model_dump_json() for r in stand.replies if r.turn_id == turn and r.kind == "final"}) == 1

    async def test_what_fails_together_is_tried_one_by_one(self, stand: Stand) -> None:
        act = Waiting()

        async def fail_if_bad(agent: Puppet) -> str:
            if "bad" in agent.chat_ctx.items[-1].content:
                raise ValueError("no")
            return agent.plain("fine")

        async with stand.running({"wait": act, "x": fail_if_bad}, double_texting=COLLECT) as member:
            await stand.send("s", "wait", id="1")
            await act.began.acquire()
            for n, text in (("2", "x good"), ("3", "x bad"), ("4", "x better")):
                await stand.send("s", text, id=n)
            await member.watcher.expect("turn_received", 4)
            act.go_on.set()
            settled = await member.watcher.expect_settled(4)
        assert settled == [("1", "completed"), ("2", "completed"), ("3", "dead"), ("4", "completed")]
        assert await said(stand, "s") == ["wait", "x good", "x better"]

    async def test_a_save_that_fails_gathers_them_again(self, stand: Stand) -> None:
        act = Waiting()
        async with stand.running({"wait": act}, double_texting=COLLECT) as member:
            await stand.send("s", "wait", id="1")
            await act.began.acquire()
            for n in "23":
                await stand.send("s", n, id=n)
            await member.watcher.expect("turn_received", 3)
            act.go_on.set()
            await stand.expect_reply("1")
            member.faults.arm("save", failing(StoreUnavailable("away")))
            await member.watcher.expect_settled(3)
        assert await said(stand, "s") == ["wait", "2\n3"]

    async def test_the_repeat_of_a_refused_one_is_not_taken_along(self, stand: Stand) -> None:
        """Given a turn that was refused for want of room, and that its platform sends again later."""
        act = Waiting()
        options = {"double_texting": COLLECT, "mailbox_size": 1, "backlog_size": 2}
        async with stand.running({"wait": act}, **options):
            await stand.send("s", "wait", id="1")
            await act.began.acquire()
            for n in "23":
                await stand.send("s", n, id=n)
            refused = await stand.expect_reply("3", kind="error")
            act.go_on.set()
            await stand.expect_reply("2")
        assert refused.metadata["reason"] == "backlog-full"
        async with stand.running({"wait": act}, double_texting=COLLECT) as member:
            act.go_on.clear()
            await stand.send("s", "wait", id="6")
            await act.began.acquire()
            for n in "7389":
                await stand.send("s", n, id=n)
            await member.watcher.expect("turn_received", 5)
            act.go_on.set()
            await member.watcher.expect_settled(5)
        assert {r.model_dump_json() for r in stand.replies if r.turn_id == "3"} == {refused.model_dump_json()}
        assert "3" not in "\n".join(await said(stand, "s")).split("\n")

    async def test_those_behind_a_backlog_are_not_taken_along_before_it(self, stand: Stand) -> None:
        """Given a consumer that died with its running turn in front of a backlog: that one comes again, and others,
        before anybody has looked at what is between them."""
        act = Waiting()
        member = stand.member({"wait": act}, double_texting=COLLECT, mailbox_size=2, grace_s=0.0)
        async with stand.started(member):
            await stand.send("s", "wait", id="1")
            await act.began.acquire()
            for n in "2345":
                await stand.send("s", n, id=n)
            await member.watcher.expect("turn_settled", 4)  # deferred
            member.cut_off()
            member.stop_at_once()
        act.go_on.set()
        for n in "67":
            await stand.send("s", n, id=n)
        member = stand.member({"wait": act}, double_texting=COLLECT)
        loading = member.faults.freeze("load")
        async with stand.started(member):
            await loading.expect_reached()
            await member.watcher.expect("turn_received", 3)
            loading.go_on.set()
            await stand.expect_reply("7")
        assert "\n".join(await said(stand, "s")).split("\n") == ["wait", *"234567"]


class TestInterrupt:
    async def test_the_running_turn_is_stopped_and_nothing_of_it_is_saved(self, stand: Stand) -> None:
        act = Waiting()
        async with stand.running({"wait": act}, double_texting=INTERRUPT) as member:
            await stand.send("s", "wait", id="1")
            await act.began.acquire()
            await stand.send("s", "now", id="2")
            first = await stand.expect_reply("1", kind="error")
            second = await stand.expect_reply("2")
            settled = await member.watcher.expect_settled(2)
        assert act.cancelled == 1
        assert (first.metadata["superseded_by"], first.metadata["reason"]) == ("2", "interrupted")
        assert second.text == "1. now"
        assert settled == [("1", "superseded"), ("2", "completed")]
        assert stand.dead == []

    async def test_of_several_the_last_one_runs(self, stand: Stand) -> None:
        act = Waiting()
        async with stand.running({"wait": act}, double_texting=INTERRUPT) as member:
            await stand.send("s", "wait", id="1")
            await act.began.acquire()
            await asyncio.gather(*(stand.send("s", n, id=n) for n in "234"))
            await member.watcher.expect_settled(4)
        assert await said(stand, "s") == ["4"]
        assert {r.turn_id for r in stand.replies if r.kind == "error"} == {"1", "2", "3"}

    async def test_its_own_repeat_does_not_stop_it(self, stand: Stand) -> None:
        act = Waiting()
        async with stand.running({"wait": act}, double_texting=INTERRUPT) as member:
            await stand.send("s", "wait", id="1")
            await act.began.acquire()
            await stand.send("s", "wait", id="1")
            await member.watcher.expect("turn_received", 2)
            act.go_on.set()
            settled = await member.watcher.expect_settled(2)
        assert (act.cancelled, settled) == (0, [("1", "completed"), ("1", "duplicate")])

    async def test_the_repeat_of_an_earlier_one_does_not_stop_it(self, stand: Stand) -> None:
        act = Waiting()
        async with stand.running({"wait": act}, double_texting=INTERRUPT) as member:
            await stand.send("s", "early", id="1")
            await stand.expect_reply("1")
            await stand.send("s", "wait", id="2")
            await act.began.acquire()
            await stand.send("s", "early", id="1")
            await member.watcher.expect("turn_received", 3)
            act.go_on.set()
            await member.watcher.expect_settled(3)
        assert act.cancelled == 0
        assert await said(stand, "s") == ["early", "wait"]

    async def test_a_replay_stops_nothing(self, stand: Stand) -> None:
        """Given the letter of a turn that its session has forgotten: it is older than what runs."""
        act = Waiting()

        async def fail_once(agent: Puppet) -> str:
            if stand.dead:
                return agent.plain("mended")
            raise ValueError("no")

        acts: dict[str, Act] = {"wait": act, "bad": fail_once}
        async with stand.running(acts, double_texting=INTERRUPT, retention=Retention(1, 0.0)) as member:
            await stand.send("s", "bad", id="1")
            await stand.expect_dead()
            await stand.send("s", "hello", id="2")
            await stand.expect_reply("2")
            await stand.send("s", "wait", id="3")
            await act.began.acquire()
            letter = DeadTurn.from_headers(stand.dead[0].message.headers)
            headers = letter.replay_headers()
            await stand.send_raw(stand.dead[0].message.body, "s", message_id=letter.turn_id, headers=headers)
            await member.watcher.expect("turn_received", 4)
            for _ in range(20):  # what stops a turn does so before it would answer
                await asyncio.sleep(0)
            act.go_on.set()
            await stand.expect_reply("1")
        assert act.cancelled == 0
        assert await said(stand, "s") == ["hello", "wait", "bad"]

    async def test_a_control_turn_stops_nothing(self, stand: Stand) -> None:
        act = Waiting()
        async with stand.running({"wait": act}, double_texting=INTERRUPT) as member:
            await stand.send("s", "wait", id="1")
            await act.began.acquire()
            await stand.send("s", "note", kind="assist", id="2")
            await member.watcher.expect("turn_received", 2)
            act.go_on.set()
            await member.watcher.expect_settled(2)
        assert act.cancelled == 0

    @pytest.mark.parametrize("point", ["save", "saved", "reply", "reply confirmed"])
    async def test_a_crash_neither_loses_nor_doubles_an_answer(self, stand: Stand, point: str) -> None:
        """Given a consumer that dies while it settles the interrupted turn."""
        act = Waiting()
        member = stand.member({"wait": act}, double_texting=INTERRUPT, grace_s=0.0)
        async with stand.started(member):
            await stand.send("s", "wait", id="1")
            await act.began.acquire()
            fault = member.faults.freeze(point)
            await stand.send("s", "now", id="2")
            await fault.expect_reached()
            member.cut_off()
            member.stop_at_once()
        async with stand.running(double_texting=INTERRUPT):
            await stand.expect_reply("2")
            await stand.expect_reply("1", kind="error")
        assert await said(stand, "s") == ["now"]
        assert len({r.model_dump_json() for r in stand.replies if r.turn_id == "1"}) == 1


class TestReject:
    async def test_it_is_refused_at_once_while_another_runs(self, stand: Stand) -> None:
        act = Waiting()
        async with stand.running({"wait": act}, double_texting=REJECT):
            await stand.send("s", "wait", id="1")
            await act.began.acquire()
            await stand.send("s", "too soon", id="2")
            refused = await stand.expect_reply("2", kind="error")
            (letter,) = await stand.expect_dead()
            act.go_on.set()
            await stand.expect_reply("1")
            await stand.send("s", "later", id="3")
            later = await stand.expect_reply("3")
        assert refused.metadata["reason"] == letter.reason == "busy"
        assert later.text == "2. later"

    async def test_its_repeat_is_refused_too_though_the_session_is_free(self, stand: Stand) -> None:
        act = Waiting()
        async with stand.running({"wait": act}, double_texting=REJECT) as member:
            await stand.send("s", "wait", id="1")
            await act.began.acquire()
            await stand.send("s", "too soon", id="2")
            await stand.expect_reply("2", kind="error")
            act.go_on.set()
            await stand.expect_reply("1")
            await stand.send("s", "too soon", id="2")
            await member.watcher.expect_settled(3)
        assert {r.kind for r in stand.replies if r.turn_id == "2"} == {"error"}
        assert len({r.model_dump_json() for r in stand.replies if r.turn_id == "2"}) == 1
        assert await said(stand, "s") == ["wait"]

    async def test_the_repeat_of_what_runs_or_has_run_is_answered_as_that(self, stand: Stand) -> None:
        act = Waiting()
        async with stand.running({"wait": act}, double_texting=REJECT) as member:
            await stand.send("s", "first", id="0")
            await stand.expect_reply("0")
            await stand.send("s", "wait", id="1")
            await act.began.acquire()
            await stand.send("s", "wait", id="1")
            await stand.send("s", "first", id="0")
            await member.watcher.expect("turn_received", 4)
            act.go_on.set()
            await member.watcher.expect_settled(4)
        assert {r.kind for r in stand.replies} == {"final"}
        assert stand.dead == []

    @pytest.mark.parametrize("point", ["dead", "dead confirmed", "reply", "reply confirmed"])
    async def test_a_crash_leaves_it_refused(self, stand: Stand, point: str) -> None:
        act = Waiting()
        member = stand.member({"wait": act}, double_texting=REJECT, grace_s=0.0)
        async with stand.started(member):
            await stand.send("s", "wait", id="1")
            await act.began.acquire()
            fault = member.faults.freeze(point)
            await stand.send("s", "too soon", id="2")
            await fault.expect_reached()
            member.cut_off()
            member.stop_at_once()
        act.go_on.set()
        async with stand.running({"wait": act}, double_texting=REJECT):
            await stand.expect_reply("1")
            await stand.expect_reply("2", kind="error")
            await stand.expect_dead()
        assert {r.kind for r in stand.replies if r.turn_id == "2"} == {"error"}
        assert await said(stand, "s") == ["wait"]

    async def test_one_that_is_let_in_late_does_not_overtake_what_comes_again(
        self, stand: Stand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Given a turn that had begun elsewhere, so that it is not refused after all, and a generation that was given
        up while the store was asked."""
        await stand.store.begin("s", "2")
        hit = asyncio.Event()
        async with stand.running(double_texting=REJECT) as member:
            run = member.consumer._pipeline.run

            async def fails_once(work: Work) -> Settlement:
                if not hit.is_set():
                    await hit.wait()
                    raise ZeroDivisionError
                return await run(work)

            monkeypatch.setattr(member.consumer._pipeline, "run", fails_once)
            refusing = member.faults.freeze("refused")
            await stand.send("s", "one", id="1")
            await stand.send("s", "two", id="2")
            await refusing.expect_reached()
            hit.set()
            await member.watcher.expect("internal_error")
            refusing.go_on.set()
            await stand.expect_reply("1")
            await stand.expect_reply("2")
        assert await said(stand, "s") == ["one", "two"]


async def test_each_channel_has_its_own_policy(stand: Stand) -> None:
    policies = PerChannel.parse("enqueue,impatient=interrupt", DoubleTexting.ENQUEUE)
    await stand.broker.declare_egress("impatient")
    act = Waiting()
    async with stand.running({"wait": act}, double_texting=policies) as member:
        await stand.send("s", "wait", id="1")
        await act.began.acquire()
        await stand.send("s", "patient", id="2")
        await member.watcher.expect("turn_received", 2)
        assert act.cancelled == 0
        await stand.send("s", "wait", id="3", channel="impatient")
        await stand.expect_reply("1", kind="error")
        act.go_on.set()
        await member.watcher.expect_settled(3)
    assert act.cancelled == 1


@pytest.mark.parametrize(
    ("text", "slack", "other"),
    [
        ("collect", "collect", "collect"),
        ("slack=reject", "reject", "enqueue"),
        (" interrupt , slack = collect ", "collect", "interrupt"),
    ],
)
def test_policies_are_written_by_channel(text: str, slack: str, other: str) -> None:
    policies = PerChannel.parse(text, DoubleTexting.ENQUEUE)
    assert (policies.of("slack"), policies.of("other")) == (slack, other)


@pytest.mark.parametrize(
    "text", ["", "shout", "slack=", "=collect", "Sl ack=collect", "collect,reject", "a=collect,a=collect"]
)
def test_what_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"none of|a channel is|given twice"):
        PerChannel.parse(text, DoubleTexting.ENQUEUE)
