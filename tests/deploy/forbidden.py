"""What each user of deploy/security must not be able to do, on either server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from aiormq.abc import AbstractChannel

AMQP = Callable[[AbstractChannel], Awaitable[Any]]

QUORUM: Final = {"x-queue-type": "quorum"}


def publish(exchange: str, key: str = "0001") -> AMQP:
    return lambda channel: channel.basic_publish(b"{}", exchange=exchange, routing_key=key)


def consume(queue: str) -> AMQP:
    return lambda channel: channel.basic_consume(queue, lambda message: None)


def get(queue: str) -> AMQP:
    return lambda channel: channel.basic_get(queue)


def declare(queue: str) -> AMQP:
    return lambda channel: channel.queue_declare(queue, durable=True, arguments=QUORUM)


def declare_exchange(name: str) -> AMQP:
    return lambda channel: channel.exchange_declare(name, exchange_type="fanout", durable=True)


def delete(queue: str) -> AMQP:
    return lambda channel: channel.queue_delete(queue)


def delete_exchange(name: str) -> AMQP:
    return lambda channel: channel.exchange_delete(name)


def purge(queue: str) -> AMQP:
    return lambda channel: channel.queue_purge(queue)


def bind(queue: str, exchange: str, key: str = "#") -> AMQP:
    return lambda channel: channel.queue_bind(queue, exchange, key)


def unbind(queue: str, exchange: str, key: str) -> AMQP:
    return lambda channel: channel.queue_unbind(queue, exchange, key)


ASK: Final = "sdqueue.ask." + "0" * 32

EVERYBODY: Final[dict[str, AMQP]] = {
    "make a queue of another namespace": declare("other.turns.0001"),
    "make a queue with a name of the broker's": declare("mine"),
    "make an exchange": declare_exchange("sdqueue.tap"),
    "listen to all replies": bind(ASK, "sdqueue.replies"),
    "publish to a broker's exchange": publish("amq.topic"),
}
NOT_ALSO: Final[dict[str, dict[str, AMQP]]] = {
    "producer": {
        "say what only consumers say": publish("sdqueue.replies", "slack.final.0001"),
        "write into any queue": publish("", "sdqueue.replies.slack"),
        "answer turns": consume("sdqueue.turns.0001"),
        "take turns": get("sdqueue.turns.0001"),
        "read dead letters": get("sdqueue.dead"),
        "throw turns away": purge("sdqueue.turns.0001"),
        "remove a partition": delete("sdqueue.turns.0001"),
        "remove the turns": delete_exchange("sdqueue.turns"),
        "make a partition": declare("sdqueue.turns.0004"),
        "make an egress queue": declare("sdqueue.replies.web"),
        "begin a resharding": declare("sdqueue.resharding"),
        "take a partition away": unbind("sdqueue.turns.0001", "sdqueue.turns", "0001"),
        "tap the turns": bind("sdqueue.replies.slack", "sdqueue.turns"),
        "publish past the partitions": publish("sdqueue.unrouted"),
    },
    "consumer": {
        "hand turns in": publish("sdqueue.turns"),
        "say what is no reply": publish("sdqueue.replies", "whatever"),
        "read users' replies": consume("sdqueue.replies.slack"),
        "take users' replies": get("sdqueue.replies.slack"),
        "throw users' replies away": purge("sdqueue.replies.slack"),
        "read dead letters": get("sdqueue.dead"),
        "throw dead letters away": purge("sdqueue.dead"),
        "remove a partition": delete("sdqueue.turns.0001"),
        "remove the replies": delete_exchange("sdqueue.replies"),
        "make a partition": declare("sdqueue.turns.0004"),
        "ask": declare(ASK),
        "make an egress queue": declare("sdqueue.replies.web"),
        "begin a resharding": declare("sdqueue.resharding"),
        "tap the replies": bind("sdqueue.dead", "sdqueue.replies"),
        "take a partition away": unbind("sdqueue.turns.0001", "sdqueue.turns", "0001"),
    },
    "operator": {
        "say what only consumers say": publish("sdqueue.replies", "slack.final.0001"),
        "read users' replies": get("sdqueue.replies.slack"),
        "throw users' replies away": purge("sdqueue.replies.slack"),
        "ask": declare(ASK),
        "bind a partition to all replies": bind("sdqueue.turns.0001", "sdqueue.replies", "#"),
    },
    "monitor": {
        "hand turns in": publish("sdqueue.turns"),
        "write into any queue": publish("", "sdqueue.replies.slack"),
        "write dead letters": publish("sdqueue.dead"),
        "answer turns": consume("sdqueue.turns.0001"),
        "read users' replies": get("sdqueue.replies.slack"),
        "read dead letters": get("sdqueue.dead"),
        "throw turns away": purge("sdqueue.turns.0001"),
        "remove a partition": delete("sdqueue.turns.0001"),
        "make a partition": declare("sdqueue.turns.0004"),
        "ask": declare(ASK),
        "take a partition away": unbind("sdqueue.turns.0001", "sdqueue.turns", "0001"),
    },
}


SESSION: Final = "sdqueue:{user-42}:"
ADMINISTRATION: Final = (
    "KEYS *", "SCAN 0", "FLUSHDB", "FLUSHALL", "CONFIG GET dir", "CONFIG SET appendonly no", "MONITOR",
    "SAVE", "BGSAVE", "SHUTDOWN NOSAVE", "ACL LIST", "ACL SETUSER x on", "CLIENT LIST", "CLIENT KILL TYPE normal",
    "REPLICAOF NO ONE", "SCRIPT FLUSH", "FUNCTION LIST", "MODULE LIST", "SWAPDB 0 1", "RANDOMKEY", "DBSIZE",
    "MIGRATE h 1 k 0 1", "DUMP sdqueue:x", "RENAME sdqueue:x sdqueue:y", "GET other:{user-42}:session",
    "GET sdqueue", "SUBSCRIBE other", "PUBLISH other x", "EVAL return 1 other",
)  # fmt: skip
STATE: Final = "sdqueue:producer:{slack}:value:x"
NOT_IN_REDIS: Final[Mapping[str, Sequence[str]]] = {
    "producer": (
        f"HGETALL {SESSION}session", f"LRANGE {SESSION}history 0 -1", f"DEL {SESSION}lock", f"GET {SESSION}key",
        f"DEL {SESSION}stream:t", f"XADD {SESSION}stream:t * r x",
        "DEL sdqueue:{members}", "ZADD sdqueue:{members} 1 x",
        "SET sdqueue:{members}:epoch 9", "HGETALL sdqueue:backlogged", "ZRANGE sdqueue:keys 0 -1",
        "GET sdqueue:alive:x",
        "PUBLISH sdqueue:granted:x y", "SUBSCRIBE sdqueue:granted:x",
        "EVAL return{redis.call('GET',KEYS[1])} 1 sdqueue:{user-42}:token", "INFO",
    ),
    "consumer": (
        f"GET {STATE}", f"SET {STATE} 1", "HGET sdqueue:producer:{slack}:replies:s k", f"XADD {SESSION}feed * r x",
        f"HGETALL {SESSION}feed:about", "PUBLISH sdqueue:webchat:changes x", "SUBSCRIBE sdqueue:webchat:changes",
        "INFO", f"XREAD STREAMS {SESSION}stream:t 0",
    ),
    "operator": (
        f"GET {STATE}", f"SET {STATE} 1", f"HGETALL {SESSION}feed:about", "PUBLISH sdqueue:webchat:changes x",
    ),
    "monitor": (
        f"HGETALL {SESSION}session", f"GET {SESSION}token", f"GET {STATE}", "SET sdqueue:{members}:epoch 9",
        "DEL sdqueue:{members}", "HGETALL sdqueue:backlogged", "SUBSCRIBE sdqueue:granted:x", "EVAL return 0",
    ),
}  # fmt: skip
