"""Chat turns of many sessions through a queue: in order, in parallel, none lost, none answered twice.

The public names are those of :mod:`sdqueue.public`. They are brought in when the first of them is asked for, since a
probe (``sdqueue health``) runs every few seconds and needs none of them.
"""

import typing

if typing.TYPE_CHECKING:
    from sdqueue.public import *  # noqa: F403 -- for type checkers and editors
    from sdqueue.public import __all__ as __all__


def __getattr__(name: str) -> object:
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sdqueue import public

    globals().update({"__all__": public.__all__, **{each: getattr(public, each) for each in public.__all__}})
    if name not in globals():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals()[name]


def __dir__() -> list[str]:
    from sdqueue import public

    return sorted({*globals(), *public.__all__})
