"""Cipher: AES-256-GCM of the ``cryptography`` package (extra ``encryption``), with a random nonce in front."""

from __future__ import annotations

import os
from typing import Final

from sdqueue.errors import ConfigurationError

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError as error:
    raise ConfigurationError(
        f"sealing sessions needs the package cryptography ({error}); pip install 'sdqueue[encryption]'"
    ) from error

_NONCE: Final = 12
"""Bytes: the length that GCM is made for (NIST SP 800-38D, 5.2.1.1). It allows 2**32 random ones under a key."""


class Cipher:
    """Encrypts under one key.

    Parameters:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def encrypt(self, content: bytes, bound: bytes) -> bytes:
        """The nonce, the ciphertext and its tag; it opens only together with ``bound``, which is not in it."""
        nonce = os.urandom(_NONCE)
        return nonce + self._aead.encrypt(nonce, content, bound)

    def decrypt(self, box: bytes, bound: bytes) -> bytes | None:
        """The content; ``None`` where key, box or ``bound`` is another one."""
        try:
            return self._aead.decrypt(box[:_NONCE], box[_NONCE:], bound)
        except (InvalidTag, ValueError):  # ValueError: too short to be a box
            return None
