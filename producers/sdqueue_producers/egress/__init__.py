"""Egress: replies on their way to a platform."""

from sdqueue_producers.egress.egress import Egress
from sdqueue_producers.egress.options import EgressOptions
from sdqueue_producers.egress.splitting import split

__all__ = ["Egress", "EgressOptions", "split"]
