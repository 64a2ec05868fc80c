"""Ingress: requests and messages of platforms become turns that the broker has confirmed."""

from sdqueue_producers.ingress.ingress import Ingress
from sdqueue_producers.ingress.options import IngressOptions

__all__ = ["Ingress", "IngressOptions"]
