"""Resharding: another number of partitions for a namespace that is in use."""

from sdqueue.resharding.options import ReshardOptions, ReshardReport
from sdqueue.resharding.resharding import Resharding

__all__ = ["ReshardOptions", "ReshardReport", "Resharding"]
