"""The consumer: from partitions to settled turns."""

from sdqueue.consumer.consumer import Consumer
from sdqueue.consumer.options import ConsumerOptions
from sdqueue.consumer.retry import RetryPolicy, is_transient

__all__ = ["Consumer", "ConsumerOptions", "RetryPolicy", "is_transient"]
