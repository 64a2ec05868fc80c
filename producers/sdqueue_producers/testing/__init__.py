"""Conformance suites for your own channels and states, as pytest classes to derive from.

They need the ``test`` extra: ``pip install 'sdqueue[test,producers]'``.
"""

import pytest

# The asserts live outside of the test files, where pytest would not explain them unasked.
pytest.register_assert_rewrite("sdqueue_producers.testing.states")

from sdqueue_producers.testing.states import StateSuite  # noqa: E402  # after the line above

__all__ = ["StateSuite"]
