"""What to do about a failure of TLS, told by the words that Python and OpenSSL have for it."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from sdqueue.tls import advice
from tests.conftest import refuse


def made(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate and its key."""
    if not shutil.which("openssl"):
        refuse("no openssl", os.environ)
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def test_a_key_of_another_certificate_is_told_from_a_certificate_of_another_host(tmp_path: Path) -> None:
    (one, _), (_, other) = made(tmp_path, "one"), made(tmp_path, "other")
    with pytest.raises(ssl.SSLError) as told:
        ssl.create_default_context().load_cert_chain(one, other)
    assert advice(str(told.value), "") == "the key that the URL names is not that of the certificate there"


def test_a_file_without_a_certificate_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("nothing")
    with pytest.raises(ssl.SSLError) as told:
        ssl.create_default_context().load_cert_chain(tmp_path / "empty")
    assert "has none in it" in advice(str(told.value), "")


@pytest.mark.parametrize(
    "words",
    [
        "certificate verify failed: Hostname mismatch, certificate is not valid for 'x'. (_ssl.c:1006)",
        "certificate verify failed: IP address mismatch, certificate is not valid for '127.0.0.1'. (_ssl.c:1006)",
    ],
)
def test_a_certificate_of_another_host_is_told(words: str) -> None:
    assert "is for other names" in advice(f"[SSL: CERTIFICATE_VERIFY_FAILED] {words}", "")


def test_what_is_nothing_about_tls_gets_the_other_advice() -> None:
    assert advice("version mismatch", "start it") == "start it"
