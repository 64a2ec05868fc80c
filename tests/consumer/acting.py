"""An agent that does what it is told, for tests with real processes; as a module, a consumer with it on SQLite."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

from sdqueue.agents import ChatContext, ChatMessage, StreamChunk, TurnResult, current_turn
from sdqueue.brokers.broker import Message
from sdqueue.brokers.sqlite import SQLiteBroker
from sdqueue.brokers.topology import Topology
from sdqueue.consumer import Consumer, ConsumerOptions
from sdqueue.sessions import FileLockBackend, SessionRecord, SessionWorker, SQLiteSessionStore

AGENT = "tests.consumer.acting:Acting"


class Busy(ConnectionError):
    """As a model's client raises it."""

    headers: ClassVar = {"retry-after": "0.3"}


class Acting:
    """Answers with the number of the message in its session and the process that answered."""

    def __init__(self) -> None:
        self.chat_ctx = ChatContext()
        self._heard = 0

    def load_chat_ctx(self, ctx: ChatContext) -> None:
        self.chat_ctx = ctx

    def dump_state(self) -> dict[str, int]:
        return {"heard": self._heard}

    def load_state(self, state: dict[str, int]) -> None:
        self._heard = state["heard"]

    async def turn(self, text: str, *, stream: bool = False) -> Any:
        word, _, rest = text.partition(" ")
        act: Callable[[str], Awaitable[Any]] | None = getattr(self, f"_{word}", None) if word != "count" else None
        if act is not None and (result := await act(rest)) is not True:
            return result
        self._heard += 1
        if word == "count":
            self.chat_ctx.append(ChatMessage("user", text))
            return self._count(rest)
        answer = f"{self._heard}. {text} in {os.getpid()}"
        self.chat_ctx.append(ChatMessage("user", text))
        self.chat_ctx.append(ChatMessage("assistant", answer))
        return answer

    async def _count(self, marker: str) -> AsyncIterator[StreamChunk]:
        """Count to five in pieces; where a file of that name does not exist, stop at three, say who it is, and wait to
        be let go."""
        turn = current_turn()
        assert turn is not None
        for number in range(1, 6):
            if number == 4 and marker and not Path(marker).exists():
                await self._hold(marker)
            yield StreamChunk(f"{turn.attempt}:{number} ")
            await asyncio.sleep(0.02)
        yield StreamChunk(done=True)

    async def _die(self, code: str) -> None:
        os._exit(int(code))

    async def _signal(self, number: str) -> None:
        os.kill(os.getpid(), int(number))

    async def _told(self, _: str) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    async def _raise(self, _: str) -> None:
        raise ValueError("on purpose")

    async def _exit(self, _: str) -> None:
        sys.exit(5)

    async def _cancelled(self, _: str) -> None:
        raise asyncio.CancelledError

    async def _nonsense(self, _: str) -> None:
        return None

    async def _segfault(self, _: str) -> None:
        ctypes.string_at(0)

    async def _tally_and_die(self, tally: str) -> None:
        with Path(tally).open("a") as file:
            file.write(f"{os.getpid()}\n")
        os._exit(7)

    async def _killed_once(self, marker: str) -> bool:
        """As by the kernel, short of memory."""
        if not Path(marker).exists():
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    async def _fork_and_die(self, marker: str) -> None:
        """Die, and leave a process that holds all open files of this one."""
        if pid := os.fork():
            Path(marker).write_text(str(pid))
        else:
            time.sleep(60)
        os._exit(7)

    async def _bomb(self, fuse: str) -> bool:
        """Leave a thread that ends the process as soon as it is told to."""

        def wait() -> None:
            while not Path(fuse).exists():
                time.sleep(0.01)
            os._exit(8)

        threading.Thread(target=wait, daemon=True).start()
        return True

    async def _clog(self, _: str) -> bool:
        """Leave something that soon takes the loop for itself."""
        asyncio.get_running_loop().call_later(0.05, time.sleep, 60)
        return True

    async def _read(self, _: str) -> str:
        return repr(sys.stdin.read())

    async def _which(self, _: str) -> str:
        turn = current_turn()
        assert turn is not None
        return f"{turn.session_id} {turn.turn_id} {turn.attempt} {dict(turn.metadata)} in {os.getpid()}"

    async def _busy(self, marker: str) -> bool:
        if not Path(marker).exists():
            Path(marker).touch()
            raise Busy
        return True

    async def _object(self, _: str) -> TurnResult:
        return TurnResult("x", metadata={"o": object()})

    async def _sleep(self, _: str) -> None:
        await asyncio.Event().wait()

    async def _block(self, _: str) -> None:
        time.sleep(60)

    async def _sleep_a_little(self, _: str) -> bool:
        await asyncio.sleep(0.1)
        return True

    async def _slowly(self, _: str) -> bool:
        await asyncio.sleep(0.05)
        return True

    async def _print(self, text: str) -> bool:
        print(text, flush=True)
        return True

    async def _once(self, marker: str) -> bool:
        if not Path(marker).exists():
            Path(marker).touch()
            raise ConnectionError("the first time")
        return True

    async def _hold(self, marker: str) -> bool:
        """Say who it is, and wait to be let go."""
        path = Path(marker)
        path.with_suffix(".part").write_text(str(os.getpid()))
        path.with_suffix(".part").rename(path)
        while not path.with_name(f"{path.name}.go").exists():
            await asyncio.sleep(0.02)
        return True


class MortalStore(SQLiteSessionStore):
    """Kills its process at a point that the environment names."""

    async def load(self, session_id: str) -> SessionRecord | None:
        die_at("delivery")
        return await super().load(session_id)

    async def begin(self, session_id: str, turn_id: str) -> int:
        begun = await super().begin(session_id, turn_id)
        die_at("acquire")
        return begun

    async def save(self, session_id: str, record: SessionRecord) -> None:
        die_at("agent")
        await super().save(session_id, record)
        die_at("save")


class MortalBroker(SQLiteBroker):
    """The same."""

    async def publish(self, exchange: str, routing_key: str, message: Message, *, timeout: float = 10.0) -> None:
        await super().publish(exchange, routing_key, message, timeout=timeout)
        die_at("reply confirmed")


def die_at(point: str) -> None:
    if os.environ.get("DIE_AT") == point:
        os.kill(os.getpid(), signal.SIGKILL)


async def consume(folder: Path, topology: Topology) -> None:
    store = MortalStore(folder / "sessions.db")
    worker = SessionWorker(agent_factory=Acting, store=store, lock_backend=FileLockBackend(folder / "locks"))
    async with MortalBroker(topology, folder / "broker.db") as broker:
        consumer = Consumer(broker, worker, ConsumerOptions(agent=AGENT, grace_s=1))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, consumer.stop)
        await consumer.run()
    await store.aclose()


if __name__ == "__main__":
    asyncio.run(consume(Path(sys.argv[1]), Topology("poison", partitions=1)))


class Prompted(Acting):
    """Has something in its conversation before anybody has said anything."""

    def __init__(self) -> None:
        super().__init__()
        self.chat_ctx.append(ChatMessage("system", "You count."))
