"""The local lock backends: the suite that every backend passes, and what is theirs alone."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import sdqueue
from sdqueue.errors import StoreUnavailable
from sdqueue.sessions.locks import AsyncioLockBackend, FileLockBackend
from sdqueue.sessions.locks import file as module
from sdqueue.sessions.locks.file import drop_flock, safe_name, try_flock
from sdqueue.testing import LockBackendSuite


class TestAsyncio(LockBackendSuite):
    @pytest.fixture
    def locks(self) -> AsyncioLockBackend:
        return AsyncioLockBackend()

    async def entries(self, locks: Any) -> int:
        return int(locks.entries)

    async def test_a_lock_handed_to_a_cancelled_waiter_is_passed_on(self, locks: AsyncioLockBackend) -> None:
        """Release hands the lock to B; B is cancelled in the same step, before it runs; C waits behind it.

        Without passing it on nobody would hold the key, and C would wait for ever.
        """
        first = await locks.take("k")
        b = asyncio.create_task(locks.take("k"))
        await asyncio.sleep(0)
        c = asyncio.create_task(locks.take("k"))
        await asyncio.sleep(0)
        locks.release("k")
        b.cancel()
        async with asyncio.timeout(60):
            held = await c
        assert b.cancelled()
        assert held.token > first.token
        locks.release("k")
        assert locks.entries == 0

    async def test_a_lock_handed_to_the_last_waiter_who_is_cancelled_is_free(self, locks: AsyncioLockBackend) -> None:
        await locks.take("k")
        b = asyncio.create_task(locks.take("k"))
        await asyncio.sleep(0)
        locks.release("k")
        b.cancel()
        await asyncio.gather(b, return_exceptions=True)
        assert locks.entries == 0


class TestFile(LockBackendSuite):
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        return tmp_path / "not" / "there"

    @pytest.fixture
    def locks(self, directory: Path) -> FileLockBackend:
        self.others: list[FileLockBackend] = []
        return FileLockBackend(directory)

    async def second_backend(self, locks: Any) -> FileLockBackend:
        self.others.append(FileLockBackend(locks._directory))
        return self.others[-1]

    async def entries(self, locks: Any) -> int:
        files = list(locks._directory.iterdir()) if locks._directory.exists() else []
        return int(locks.entries) + sum(other.entries for other in self.others) + len(files)

    async def test_a_file_that_vanishes_between_open_and_flock_is_no_lock(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A holds. B opens the file. A removes and unlocks it. C makes a new file and locks that. B locks the old one.

        B and C would both hold the lock; B must see that its file is not the one at the path.
        """
        path = directory / "k.lock"
        a = try_flock(path)
        assert a is not None
        c: list[int | None] = []
        real_flock = fcntl.flock

        def interleave(fd: int, operation: int) -> None:
            monkeypatch.undo()
            drop_flock(path, a)
            c.append(try_flock(path))
            real_flock(fd, operation)

        monkeypatch.setattr(fcntl, "flock", interleave)
        b = try_flock(path)
        assert c[0] is not None
        assert b is None
        drop_flock(path, c[0])
        d = try_flock(path)
        assert d is not None
        drop_flock(path, d)

    async def test_a_release_leaves_the_file_of_another(self, directory: Path) -> None:
        """Somebody removed the file of a holder and locked a new one: the first release must not remove that."""
        path = directory / "k.lock"
        first = try_flock(path)
        assert first is not None
        path.unlink()
        second = try_flock(path)
        assert second is not None
        drop_flock(path, first)
        assert try_flock(path) is None
        drop_flock(path, second)
        assert not path.exists()

    async def test_tokens_pass_what_a_dead_holder_left(self, locks: FileLockBackend, directory: Path) -> None:
        """The clock was set back since: the token in the file that the dead holder left is passed anyway."""
        directory.mkdir(parents=True)
        (directory / f"{safe_name('k')}.lock").write_text("       123 9000000000000000000\n")
        async with locks.acquire("k") as held:
            assert held.token == 9000000000000000001

    async def test_a_directory_that_is_none_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        locks = FileLockBackend(tmp_path / "file")
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=r"file.*check that"):
                async with locks.acquire("k"):
                    pass
        assert locks.entries == 0

    async def test_a_released_lock_is_free_though_a_forked_child_lives(
        self, locks: FileLockBackend, directory: Path
    ) -> None:
        """A child made by fork has a copy of the descriptor; the lock must not live on with it."""
        async with locks.acquire("k"):
            (path,) = directory.iterdir()
            fds = [fd for fd in _open_files() if _is(fd, path)]
            copies = [os.dup(fd) for fd in fds]
            assert copies
        async with asyncio.timeout(60), locks.acquire("k"):
            pass
        for fd in copies:
            os.close(fd)


HOLDER = """
import asyncio, os, sys
from sdqueue.sessions.locks import FileLockBackend

async def main():
    async with FileLockBackend(sys.argv[1]).acquire("k") as held:
        print(held.token, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""

COUNTER = """
import asyncio, sys
from pathlib import Path
from sdqueue.sessions.locks import FileLockBackend

async def main():
    locks, file = FileLockBackend(sys.argv[1]), Path(sys.argv[2])
    sys.stdin.readline()

    async def work():
        for _ in range(10):
            async with locks.acquire("k") as held:
                text = file.read_text()
                await asyncio.sleep(0)
                file.write_text(text + f"{held.token}\\n")

    await asyncio.gather(work(), work())

asyncio.run(main())
"""


async def test_a_dead_holder_frees_its_lock_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a process that holds the lock, when it is killed (SIGKILL), then another has it at its next look."""
    looks: list[bool] = []

    def look(path: Path) -> int | None:
        fd = try_flock(path)
        looks.append(fd is not None)
        return fd

    monkeypatch.setattr(module, "try_flock", look)
    holder = await _python(HOLDER, str(tmp_path))
    assert holder.stdout is not None
    token = int(await holder.stdout.readline())
    got = asyncio.Event()

    async def wait() -> int:
        async with FileLockBackend(tmp_path).acquire("k") as held:
            got.set()
            return held.token

    waiter = asyncio.create_task(wait())
    while len(looks) < 3:
        await asyncio.sleep(0.01)
    assert not got.is_set()
    holder.send_signal(signal.SIGKILL)
    await holder.wait()
    before = len(looks)
    async with asyncio.timeout(20):
        await got.wait()
    assert all(looks[before:])
    assert await waiter > token
    await holder.communicate()
    assert not list(tmp_path.iterdir())


async def test_a_stopped_holder_keeps_its_lock(tmp_path: Path) -> None:
    """A process that sleeps (SIGSTOP) may wake up and go on: nobody else may have its lock."""
    holder = await _python(HOLDER, str(tmp_path))
    assert holder.stdout is not None
    await holder.stdout.readline()
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3), FileLockBackend(tmp_path).acquire("k"):
            pass
    holder.kill()
    await holder.communicate()
    assert holder.returncode == -signal.SIGKILL


async def test_processes_are_one_at_a_time(tmp_path: Path) -> None:
    """Three processes of two tasks read and write a file without other protection: nothing is lost, tokens grow."""
    file = tmp_path / "file"
    file.write_text("")
    counters = [await _python(COUNTER, str(tmp_path / "locks"), str(file)) for _ in range(3)]
    async with asyncio.timeout(100):
        await asyncio.gather(*(counter.communicate(b"go\n") for counter in counters))
    assert [counter.returncode for counter in counters] == [0, 0, 0]
    tokens = [int(line) for line in file.read_text().split()]
    assert len(tokens) == 60
    assert tokens == sorted(set(tokens))
    assert not list((tmp_path / "locks").iterdir())


@pytest.mark.parametrize("key", ["", "a/b", "..", "🦊" * 256, "\ud800", "\x00"])
def test_any_key_makes_a_file_name(tmp_path: Path, key: str) -> None:
    name = safe_name(key)
    (tmp_path / name).write_text("")
    assert len(name) <= 110
    assert name.isascii()
    assert name != safe_name(key + "x")


async def _python(script: str, *arguments: str) -> asyncio.subprocess.Process:
    """A process of its own, with this sdqueue."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(sdqueue.__file__).parents[1])},
    )


def _open_files() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/fd")]


def _is(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False
