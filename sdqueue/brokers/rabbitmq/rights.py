"""Rights: what RabbitMQ lets a user do, told from its refusals and asked of it without doing anything."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

import pamqp.frame
from aiormq import spec
from pamqp.base import Frame
from pamqp.header import ContentHeader

from sdqueue.brokers.rabbitmq.channel import ChannelLost
from sdqueue.brokers.rabbitmq.connection import Connection
from sdqueue.errors import AccessRefused, BrokerUnavailable, TopologyMissing

ACCESS_REFUSED: Final = 403
NOT_FOUND: Final = 404
PRECONDITION_FAILED: Final = 406

_REFUSAL: Final = re.compile(
    r"(?:(?P<right>configure|read|write) )?access to (?P<what>queue|exchange|topic) '(?P<name>[^']*)'"
    r"(?P<where>(?: in exchange '[^']*')? in vhost '[^']*') refused for user '(?P<user>[^']*)'"
)
"""The broker's words; from RabbitMQ 4 on they name the right."""


@dataclass(frozen=True)
class Right:
    """A right on something, in AMQP's terms.

    Parameters:
        kind: ``configure`` makes and removes, ``write`` publishes, ``read`` receives (and purges).
        what: a queue or an exchange. RabbitMQ has the right to write to all queues on the exchange ``amq.default``.
        name: its name.
    """

    kind: Literal["configure", "write", "read"]
    what: Literal["queue", "exchange"]
    name: str

    def __str__(self) -> str:
        return f"{_said(self.kind)} the {self.what} {self.name!r}"


def refused(reason: str, right: str) -> AccessRefused:
    """The error for a refusal.

    Parameters:
        reason: the broker's words.
        right: the one that is missing, where the broker does not say it.
    """
    found = _REFUSAL.search(reason)
    if found is None:
        return AccessRefused(
            f"RabbitMQ refuses it: {reason}; look at the rights of the user (rabbitmqctl set_permissions)"
        )
    right = found["right"] or right
    advice = f"give the user that right (rabbitmqctl set_{'topic_' if found['what'] == 'topic' else ''}permissions)"
    if "configure" in right and ".ask." not in found["name"]:
        advice = f"let an operator run `sdqueue topology apply`, and start this with --no-apply; or {advice}"
    return AccessRefused(
        f"RabbitMQ does not let user {found['user']!r} {_said(right)} the {found['what']} "
        f"{found['name']!r}{found['where']}; {advice}. deploy/security has what each process needs"
    )


def _said(right: str) -> str:
    return {"write": "write to", "read": "read from"}.get(right, right)


def right_for(frame: Frame, reason: str) -> str:
    """The right that a declaration lacks, by the rules of RabbitMQ (rabbit_channel.erl)."""
    about = _REFUSAL.search(reason)
    what, name = (about["what"], about["name"]) if about else ("", "")
    if isinstance(frame, spec.Queue.Declare):
        if what == "exchange":
            return "write"  # its dead letters
        return "configure or read" if (frame.arguments or {}).get("x-dead-letter-exchange") else "configure"
    if isinstance(frame, spec.Exchange.Declare):
        if name != frame.exchange:
            return "write"  # its alternate
        return "configure or read" if (frame.arguments or {}).get("alternate-exchange") else "configure"
    if isinstance(frame, spec.Queue.Bind | spec.Queue.Unbind):
        return "write" if what == "queue" else "read"
    return "configure"


async def lacking(connection: Connection, rights: Iterable[Right]) -> list[Right]:
    """Those of the rights that the user has not.

    The broker looks at rights before it looks at arguments. So each is asked for with an argument that cannot be: who
    has the right is told of the argument (406), who has not is refused (403), and nothing is done either way.
    """
    return [right for right in rights if not await _has(connection, right)]


async def _has(connection: Connection, right: Right) -> bool:
    channel, opening = connection.channel()
    try:
        await channel.call(opening)
        if right.kind == "write":
            name = "" if right.name == "amq.default" else right.name
            channel.send(_impossible(channel.number, name))
            await channel.call(spec.Confirm.Select())  # behind the answer to the message
        elif right.kind == "read":
            await channel.call(spec.Basic.Consume(queue=right.name, arguments={"x-priority": "impossible"}))
        else:
            await channel.call(spec.Queue.Declare(queue=right.name, arguments={"x-expires": "impossible"}))
    except ChannelLost as error:
        if error.code == ACCESS_REFUSED:
            return False
        if error.code == PRECONDITION_FAILED:
            return True
        if error.code == NOT_FOUND:
            raise TopologyMissing(f"{error.reason}; run `sdqueue topology apply`") from None
        raise
    finally:
        channel.abandon()
    raise BrokerUnavailable(f"RabbitMQ did not say whether the user may {right}")


def _impossible(number: int, exchange: str) -> bytes:
    """A message that no broker takes."""
    publish = spec.Basic.Publish(exchange=exchange, routing_key="default.final.0000")
    header = ContentHeader(0, 0, spec.Basic.Properties(expiration="impossible"))
    return pamqp.frame.marshal(publish, number) + pamqp.frame.marshal(header, number)
