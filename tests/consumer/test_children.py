"""The child processes for suspects: few, used again and again, and never a reason to condemn the wrong turn."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sdqueue.consumer import children, isolation
from sdqueue.consumer.child import Child, ChildNotStarted
from sdqueue.consumer.frames import read_frame, write_frame
from sdqueue.consumer.isolated import OOM_SCORE
from sdqueue.sessions import SessionRecord
from sdqueue.sessions.codec import encode
from tests.consumer.acting import AGENT, Acting
from tests.consumer.stand import PATIENCE_S, Stand


async def _suspect(stand: Stand, session: str, text: str, **fields: Any) -> str:
    """Send a turn that was begun twice without an end."""
    turn = f"of {session}"
    for _ in range(2):
        await stand.store.begin(session, turn)
    await stand.send(session, text, id=turn, **fields)
    return turn


async def _answered_by(stand: Stand, turn: str) -> int:
    return int((await stand.expect_reply(turn)).text.split(" in ")[1])


async def _until(condition: Callable[[], Any]) -> None:
    """Wait for what only the file system or the table of processes tells."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.02)


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_child_takes_one_suspect_after_the_other_and_ends_with_the_consumer(stand: Stand) -> None:
    async with stand.running(Acting, agent=AGENT):
        pids = [await _answered_by(stand, await _suspect(stand, f"s{n}", f"slowly {n}")) for n in range(5)]
    assert len(set(pids)) == 1
    assert pids[0] != os.getpid()
    assert _gone(pids[0])


async def test_many_suspects_share_few_children(stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given turns that are held, so that all children are needed however long one takes to start."""
    monkeypatch.setattr(children, "AT_ONCE", 3)
    texts = [f"hold {tmp_path / f'{n}'}" for n in range(30)]
    async with stand.running(Acting, agent=AGENT):
        turns = [await _suspect(stand, f"s{n}", text) for n, text in enumerate(texts)]
        await _until(lambda: len([name for name in os.listdir(tmp_path) if name.isdigit()]) == 3)
        for n in range(30):
            (tmp_path / f"{n}.go").touch()
        pids = [await _answered_by(stand, turn) for turn in turns]
    assert len(set(pids)) == 3
    assert all(stand.answers(f"s{n}") == [f"1. {texts[n]} in {pid}"] for n, pid in enumerate(pids))


async def test_a_child_without_turns_is_let_go_and_another_one_started_when_needed(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "IDLE_S", 0.1)
    async with stand.running(Acting, agent=AGENT):
        first = await _answered_by(stand, await _suspect(stand, "a", "x"))
        await _until(lambda: _gone(first))
        second = await _answered_by(stand, await _suspect(stand, "b", "x"))
    assert second != first


async def test_a_child_that_died_between_two_turns_is_replaced(stand: Stand) -> None:
    async with stand.running(Acting, agent=AGENT):
        first = await _answered_by(stand, await _suspect(stand, "a", "x"))
        os.kill(first, signal.SIGKILL)
        second = await _answered_by(stand, await _suspect(stand, "b", "x"))
    assert second != first
    assert stand.dead == []


async def test_turns_of_one_child_have_nothing_of_each_other(stand: Stand) -> None:
    """Neither the agent's state nor what ``current_turn`` tells."""
    async with stand.running(Acting, agent=AGENT):
        pid = await _answered_by(stand, await _suspect(stand, "a", "which", metadata={"n": 1}))
        await _suspect(stand, "b", "which")
        await stand.expect_reply("of b")
        assert await _answered_by(stand, await _suspect(stand, "c", "x")) == pid
    assert stand.answers("a") == [f"a of a 3 {{'n': 1}} in {pid}"], (
        "its starts in the processes that died are not counted"
    )
    assert stand.answers("b") == [f"b of b 3 {{}} in {pid}"]
    assert stand.answers("c") == [f"1. x in {pid}"]


# What a death proves


async def test_a_turn_is_not_condemned_for_what_an_earlier_turn_of_its_child_does(stand: Stand, tmp_path: Path) -> None:
    """Given a turn that left a thread, which ends the process while the next turn runs in it."""
    marker = tmp_path / "pid"
    async with stand.running(Acting, agent=AGENT):
        first = await _answered_by(stand, await _suspect(stand, "a", f"bomb {tmp_path / 'fuse'}"))
        await _suspect(stand, "b", f"hold {marker}")
        await _until(marker.exists)
        assert int(marker.read_text()) == first
        (tmp_path / "fuse").touch()
        await _until(lambda: _gone(first))
        (tmp_path / "pid.go").touch()
        second = await _answered_by(stand, "of b")
    assert second != first
    assert stand.dead == []


async def test_a_turn_is_not_late_for_what_an_earlier_turn_of_its_child_does(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a turn that left something which keeps the loop for itself.

    The next one has much time, and soon enough counts as late in the child of before only.
    """
    stuck_s = isolation.STUCK_S

    async def begins() -> None:
        pass

    async def begins_in_another_child() -> None:
        monkeypatch.setattr(isolation, "STUCK_S", stuck_s)

    async with stand.running(Acting, agent=AGENT) as member:
        first = await _answered_by(stand, await _suspect(stand, "a", "clog"))
        monkeypatch.setattr(isolation, "STUCK_S", 0.5 - PATIENCE_S)
        member.faults.arm("begin", begins, begins_in_another_child)
        await _suspect(stand, "b", "sleep_a_little", deadline_s=PATIENCE_S)
        second = await _answered_by(stand, "of b")
    assert second != first
    assert _gone(first)
    assert stand.dead == []


async def test_the_poison_is_condemned_by_a_child_that_has_run_nothing_else(stand: Stand, tmp_path: Path) -> None:
    async with stand.running(Acting, agent=AGENT):
        first = await _answered_by(stand, await _suspect(stand, "a", "x"))
        await _suspect(stand, "b", f"tally_and_die {tmp_path / 'tally'}")
        (letter,) = await stand.expect_dead()
        await stand.expect_reply("of b", kind="error")
    pids = [int(line) for line in (tmp_path / "tally").read_text().split()]
    assert len(pids) == 2
    assert pids[0] == first != pids[1]
    assert (letter.reason, letter.attempts) == ("poison", 4)
    assert "alone: exit code 7" in letter.error


async def test_one_sigkill_is_not_held_against_a_turn(stand: Stand, tmp_path: Path) -> None:
    """The kernel may have needed memory, or an operator may have meant another process."""
    async with stand.running(Acting, agent=AGENT):
        await _answered_by(stand, await _suspect(stand, "a", f"killed_once {tmp_path / 'marker'}"))
    assert (tmp_path / "marker").exists()
    assert stand.dead == []


async def test_a_death_is_seen_though_another_process_holds_the_files_of_the_dead(stand: Stand, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    async with stand.running(Acting, agent=AGENT):
        await _suspect(stand, "a", f"fork_and_die {marker}")
        (letter,) = await stand.expect_dead()
    os.kill(int(marker.read_text()), signal.SIGKILL)
    assert letter.reason == "poison"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be told whom to take")
async def test_short_of_memory_the_kernel_takes_a_child_before_its_consumer(stand: Stand, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    async with stand.running(Acting, agent=AGENT):
        await _suspect(stand, "a", f"hold {marker}")
        await _until(marker.exists)
        assert int(Path(f"/proc/{marker.read_text()}/oom_score_adj").read_text()) == OOM_SCORE
        assert int(Path("/proc/self/oom_score_adj").read_text()) < OOM_SCORE
        (tmp_path / "pid.go").touch()
        await stand.expect_reply("of a")


# Starting, and the way there and back


async def test_an_agent_that_cannot_be_loaded_alone_costs_the_suspects_only(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a module that ends the process that imports it; their letters say that they were not even tried."""
    (tmp_path / "deadly.py").write_text("import os\nos._exit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with stand.running(Acting, agent="deadly:make"):
        await _suspect(stand, "a", "x")
        await stand.send("b", "y", id="usual")
        (letter,) = await stand.expect_dead()
        await stand.expect_reply("of a", kind="error")
        assert await _answered_by(stand, "usual") == os.getpid()
    assert letter.reason == "agent-failed"
    assert "the agent could not even be started in a process of its own: exit code 3" in letter.error


@pytest.mark.parametrize(
    ("agent", "says"),
    [
        ("tests.consumer.acting:Nobody", "has no 'Nobody'"),
        ("hanging:make", "killed, for it took too long"),
        ("forgotten", "must have the form package.module:factory"),
    ],
)
async def test_why_a_child_could_not_be_started(
    agent: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hanging.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ChildNotStarted, match=says):
        await Child.start(agent, timeout=1 if agent == "hanging:make" else PATIENCE_S)


async def test_no_process_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ChildNotStarted, match="No such file"):
        await Child.start(AGENT, timeout=1)


async def test_standard_input_is_empty(stand: Stand) -> None:
    """An agent that reads it takes nothing from the consumer and waits for nothing."""
    async with stand.running(Acting, agent=AGENT):
        assert (await stand.expect_reply(await _suspect(stand, "a", "read"))).text == "''"


async def test_what_a_server_asks_to_wait_is_waited_for(stand: Stand, tmp_path: Path) -> None:
    async with stand.running(Acting, agent=AGENT) as member:
        await _answered_by(stand, await _suspect(stand, "a", f"busy {tmp_path / 'marker'}"))
        (retried,) = member.watcher.of("turn_retried")
    assert retried["delay_s"] == pytest.approx(0.3)
    assert "Busy" in retried["error"]


async def test_a_long_conversation_goes_there_and_back(stand: Stand) -> None:
    long = "x" * 200_000
    async with stand.running(Acting, agent=AGENT):
        for n in range(5):
            await stand.send("a", f"{n}{long}")
        await stand.expect_replies(5)
        await _answered_by(stand, await _suspect(stand, "a", "x"))
    record = await stand.record("a")
    assert record.agent_state == {"heard": 6}
    assert len(record.chat_ctx.items) == 12


# Ends


@asynccontextmanager
async def _parent(text: str) -> Any:
    """Another process with a child that runs a turn."""
    program = """
import asyncio, json, sys
from sdqueue.consumer.child import Child
from sdqueue.sessions import SessionRecord
from sdqueue.sessions.codec import encode

async def main():
    child = await Child.start("tests.consumer.acting:Acting", timeout=60)
    request = {"record": encode(SessionRecord()), "session_id": "s", "turn_id": "t", "attempt": 1, "timeout": 60}
    if sys.argv[1]:
        asking = asyncio.create_task(child.ask(json.dumps(request | {"text": sys.argv[1]}), timeout=60))
    print(child.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, text), stdout=asyncio.subprocess.PIPE
    )
    try:
        yield parent
    finally:
        if parent.returncode is None:
            parent.kill()
        await parent.communicate()


@pytest.mark.parametrize("doing", ["nothing", "a turn"])
async def test_a_child_ends_with_its_parent_however_that_ends(tmp_path: Path, doing: str) -> None:
    """SIGKILL leaves the parent no time for anything. Their output ends only when both have."""
    marker = tmp_path / "pid"
    async with _parent(f"hold {marker}" if doing == "a turn" else "") as parent, asyncio.timeout(PATIENCE_S):
        pid = int(await parent.stdout.readline())
        if doing == "a turn":
            await _until(marker.exists)
        assert not _gone(pid)

        parent.kill()

        await parent.stdout.read()


IMPATIENT = """
from sdqueue.consumer import isolated

async def answer_all(*args, then=isolated._answer_all):
    isolated.PATIENCE_S = 1
    await then(*args)

isolated._answer_all = answer_all
"""
"""A child that has lost its patience when it is ready, and takes as long as it needs until then."""


@pytest.mark.parametrize("doing", ["importing the agent", "a turn"])
async def test_a_child_that_never_lets_go_of_its_loop_ends_without_its_parent_too(
    doing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the kernel's alarm; the end of the socket is seen by the loop only."""
    (tmp_path / "hanging.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    agent = AGENT if doing == "a turn" else "hanging:make"
    program = IMPATIENT + ("" if doing == "a turn" else "isolated.PATIENCE_S = 1\n") + "isolated.main()"
    request = {"record": encode(SessionRecord()), "session_id": "s", "turn_id": "t", "attempt": 1}
    ours, theirs = socket.socketpair()
    with theirs:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, str(theirs.fileno()), agent), pass_fds=(theirs.fileno(),)
        )
    reader, writer = await asyncio.open_connection(sock=ours)
    async with asyncio.timeout(PATIENCE_S):
        if doing == "a turn":
            assert await read_frame(reader) == {"ready": True}
            await write_frame(writer, json.dumps(request | {"text": "block", "timeout": 1}))
        writer.close()
        assert await child.wait() == -signal.SIGALRM
