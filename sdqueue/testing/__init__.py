"""Conformance suites for your own backends, as pytest classes to derive from.

They need the ``test`` extra: ``pip install 'sdqueue[test]'``.
"""

import pytest

# The asserts live outside of the test files, where pytest would not explain them unasked.
pytest.register_assert_rewrite(
    *(
        f"sdqueue.testing.{module}"
        for module in (
            "backlog_refusals",
            "backlogs",
            "broker_delivery",
            "broker_fixtures",
            "brokers",
            "delta_logs",
            "inbox",
            "locks",
            "null",
            "store_foreign",
            "store_refusals",
            "store_turns",
            "stores",
        )
    )
)

from sdqueue.testing.backlogs import TurnBacklogSuite  # noqa: E402  # after the line above
from sdqueue.testing.brokers import BrokerSuite  # noqa: E402  # after the line above
from sdqueue.testing.delta_logs import DeltaLogSuite  # noqa: E402  # after the line above
from sdqueue.testing.locks import LockBackendSuite  # noqa: E402  # after the line above
from sdqueue.testing.null import NullStoreSuite  # noqa: E402  # after the line above
from sdqueue.testing.stores import SessionStoreSuite  # noqa: E402  # after the line above

__all__ = [
    "BrokerSuite",
    "DeltaLogSuite",
    "LockBackendSuite",
    "NullStoreSuite",
    "SessionStoreSuite",
    "TurnBacklogSuite",
]
