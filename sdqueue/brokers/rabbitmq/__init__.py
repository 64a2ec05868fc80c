"""RabbitMQ as a broker, on aio-pika.

``broker.py`` is the whole; ``supervisor.py`` keeps a connection, ``connection.py`` is one, ``channel.py``
one channel of it; ``publisher.py`` and ``subscription.py`` are the two ways that messages take;
``declare.py`` makes the topology; ``wire.py`` and ``guard.py`` translate between messages and bytes.
"""

from sdqueue.brokers.rabbitmq.broker import RabbitMQBroker
from sdqueue.brokers.rabbitmq.subscription import RabbitMQSubscription

__all__ = ["RabbitMQBroker", "RabbitMQSubscription"]
