"""What type checkers make of the public names, though these are brought in late; mypy reads this, and nothing runs it.

An ignore that is not needed is an error: each says that the line is one.
"""

from typing import assert_type

import sdqueue
from sdqueue import Clint  # type: ignore[attr-defined]  # noqa: F401 -- a slip of the pen
from sdqueue import Topology as Layout

assert_type(sdqueue.Topology("bot").dead, str)
assert_type(Layout("bot"), sdqueue.Topology)
print(sdqueue.Clint)  # type: ignore[attr-defined]
