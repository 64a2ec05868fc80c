"""TLS: what to do about a connection that failed for it."""

from __future__ import annotations

from typing import Final

_HUNG_UP: Final = (
    "the server hung up: check that it runs, and the URL: the port may want TLS (amqps://, rediss://), or a "
    "certificate of its clients"
)
_ADVICE: Final = (
    ("certificate has expired", "the server's certificate has expired; renew it"),
    (
        "certificate is not valid for",
        "the server's certificate is for other names; connect to one of those, or have it made for this too",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "the server's certificate is not from an authority that is trusted here; name the authority's file in the URL: "
        "cafile for amqps://, ssl_ca_certs for rediss://",
    ),
    ("certificate required", "the server wants a certificate of its clients; name it and its key in the URL"),
    ("No such file or directory", "a file that the URL names for TLS is not there"),
    ("NO_CERTIFICATE_OR_CRL_FOUND", "the file that the URL names for the authority has no certificate in it"),
    ("PEM lib", "the file that the URL names for the client's certificate, or its key, has none in it"),
    ("KEY_VALUES_MISMATCH", "the key that the URL names is not that of the certificate there"),
    ("WRONG_VERSION_NUMBER", "this port does not speak TLS; use another, or amqp:// or redis://"),
    ("record layer failure", "this port does not speak TLS; use another, or amqp:// or redis://"),
    ("reset by peer", _HUNG_UP),
    ("unexpectedly closed", _HUNG_UP),
)


def advice(cause: str, otherwise: str) -> str:
    """What to do, for the words in which the libraries tell of a failure.

    Parameters:
        cause: their words.
        otherwise: the advice where it is nothing about TLS.
    """
    return next((told for words, told in _ADVICE if words in cause), otherwise)
