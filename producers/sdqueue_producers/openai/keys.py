"""Keys: who asks, by the bearer key."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from sdqueue_producers.openai.settings import OpenAISettings
from sdqueue_producers.openai.trouble import Trouble

_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="sdqueue"'}


class Keys:
    """Tells the name of a key, in a time that says nothing about the others.

    Parameters:
        settings: keys by name.
    """

    def __init__(self, settings: OpenAISettings) -> None:
        self._known = [
            (name, _digest(secret.get_secret_value())) for name, secrets in settings.keys.items() for secret in secrets
        ]

    def owner(self, headers: Mapping[str, str]) -> str:
        """The name of the key of a request.

        Raises:
            Trouble: 401.
        """
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Trouble(
                401, "missing_api_key", "no API key; send it as Authorization: Bearer KEY", headers=_CHALLENGE
            )
        digest = _digest(key.strip())
        found = [name for name, known in self._known if hmac.compare_digest(digest, known)]
        if not found:
            raise Trouble(401, "invalid_api_key", "the API key is not one of this server's", headers=_CHALLENGE)
        return found[0]


def _digest(key: str) -> bytes:
    """Of one length, so that a comparison tells nothing about a key's."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
