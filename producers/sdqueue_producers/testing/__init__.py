"""Conformance suites for your own channels and states, as pytest classes to derive from.

They need the ``test`` extra: ``pip install 'sdqueue[test,producers]'``.
"""

import pytest

# The asserts live outside of the test files, where pytest would not explain them unasked.
pytest.register_assert_rewrite(
    *(
        f"sdqueue_producers.testing.{module}"
        for module in (
            *("channel_base", "channel_receiving", "channel_sending"),
            *("state_base", "state_buckets", "state_outbox", "state_values", "states"),
        )
    )
)

from sdqueue_producers.testing.channels import ChannelSuite  # noqa: E402  # after the line above
from sdqueue_producers.testing.platform import Call, FakePlatform, Platform, Trouble  # noqa: E402
from sdqueue_producers.testing.samples import Sample  # noqa: E402
from sdqueue_producers.testing.states import StateSuite  # noqa: E402

__all__ = ["Call", "ChannelSuite", "FakePlatform", "Platform", "Sample", "StateSuite", "Trouble"]
