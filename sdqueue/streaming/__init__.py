"""Streaming: logs of streamed answers, so that a client reads on from where it was."""

from sdqueue.streaming.following import follow
from sdqueue.streaming.log import DeltaLog, LogEntry, LogLimits
from sdqueue.streaming.memory import MemoryDeltaLog
from sdqueue.streaming.newest import NewestAttempt
from sdqueue.streaming.offset import BEGINNING, StreamOffset
from sdqueue.streaming.redis import RedisDeltaLog
from sdqueue.streaming.sqlite import SQLiteDeltaLog
from sdqueue.streaming.writer import LogLine, LogWriter

__all__ = [
    "BEGINNING",
    "DeltaLog",
    "LogEntry",
    "LogLimits",
    "LogLine",
    "LogWriter",
    "MemoryDeltaLog",
    "NewestAttempt",
    "RedisDeltaLog",
    "SQLiteDeltaLog",
    "StreamOffset",
    "follow",
]
