"""Chat turns of many sessions through a queue: in order, in parallel, none lost, none answered twice.

The public names are those of :mod:`sdqueue.public`. They are brought in when the first of them is asked for, since a
probe (``sdqueue health``) runs every few seconds and needs none of them.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from sdqueue.public import *  # noqa: F403 -- for type checkers and editors
    from sdqueue.public import __all__ as __all__
else:  # a type checker that saw __getattr__ would take any name for one that is there

    def __getattr__(name: str) -> object:
        names = vars(importlib.import_module("sdqueue.public")) if name == "__all__" or name[:2] != "__" else {}
        if "__all__" in names:  # it is not yet, while the modules that have the names are being brought in
            globals().update({each: names[each] for each in ("__all__", *names["__all__"])})
        if name not in globals():
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return globals()[name]

    def __dir__() -> list[str]:
        __getattr__("__all__")
        return sorted(globals())
