"""What a store offers beyond loading and saving, asked the same way on every Python."""

from __future__ import annotations

from typing import TypeGuard, TypeVar

Part = TypeVar("Part")


def offers(store: object, protocol: type[Part]) -> TypeGuard[Part]:
    """Whether a store has every method that this protocol names.

    Not by ``isinstance``: from Python 3.12 on that overlooks what a wrapper passes on by ``__getattr__``, and a wrapped
    store would silently lose its backlog and its count of beginnings.
    """
    return all(hasattr(store, name) for name in vars(protocol) if not name.startswith("_"))
