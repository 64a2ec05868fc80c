"""The process of a producer: its web server, and its ingress and egress in their order."""

from sdqueue_producers.process.producer import Parts, Producer
from sdqueue_producers.process.server import WebServer

__all__ = ["Parts", "Producer", "WebServer"]
