"""Keyrings: how master keys are written, and that they are never shown."""

from __future__ import annotations

import base64
import subprocess
import sys

import pytest

from sdqueue import ConfigurationError, Keyring, Settings
from sdqueue.backends import default_keys_url
from sdqueue.sessions.sealing.keyring import generate, mask_keys, parse_keys

KEY = base64.b64encode(bytes(range(200, 232))).decode()
URLSAFE = base64.urlsafe_b64encode(bytes(range(200, 232))).decode()


def test_keys_are_read_in_order() -> None:
    keyring = Keyring.parse(f" k2:{KEY} , k1.old_1-x:{generate('k').partition(':')[2]}")
    assert keyring.first == "k2"
    assert keyring.ids == ("k2", "k1.old_1-x")
    assert parse_keys(f"k:{KEY}") == parse_keys(f"k:{URLSAFE}") == {"k": bytes(range(200, 232))}


def test_generated_keys_are_random_and_fit() -> None:
    keys = {generate("k1") for _ in range(3)}
    assert len(keys) == 3
    assert all(len(parse_keys(key)["k1"]) == 32 for key in keys)
    Keyring.parse(generate())
    with pytest.raises(ConfigurationError, match="'a:b'"):
        generate("a:b")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (KEY, "key 1 .*no id"),
        (f"k1:{KEY},", "key 2 .*no id"),
        (f"k1:{KEY[:-8]}", "key 1 .*(bytes, not 32|base64)"),
        (f"k1:{base64.b64encode(bytes(16)).decode()}", "key 1 .*16 bytes, not 32"),
        ("k1:", "key 1 .*0 bytes, not 32"),
        (f"k1:{KEY}!", "key 1 .*base64"),
        (f"k 1:{KEY}", "key 1 .*an id that"),
        (f":{KEY}", "key 1 .*an id that"),
        (f"{KEY}:k1", "key 1"),
        (f"k1:{KEY},k1:{KEY}", "key 2 .*'k1'"),
    ],
)
def test_a_mistake_is_told_without_showing_the_key(
    text: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigurationError, match=says) as refused:
        Keyring.parse(text)
    monkeypatch.setenv("SDQUEUE_ENCRYPTION_KEYS", text)
    with pytest.raises(ConfigurationError, match=rf"SDQUEUE_ENCRYPTION_KEYS \(environment\): {says}") as wrong:
        Settings.load()
    for shown in (str(refused.value), str(wrong.value), mask_keys(text)):
        assert KEY[:12] not in shown


def test_settings_do_not_show_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDQUEUE_ENCRYPTION_KEYS", f"k2:{KEY},k1:{KEY}")
    settings = Settings.load()
    assert settings.masked()["encryption_keys"] == "k2:***,k1:***"
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(Keyring.parse(f"k1:{KEY}"))):
        assert KEY[:12] not in shown
    assert settings.encryption_keys.get_secret_value() == f"k2:{KEY},k1:{KEY}"


def test_keys_in_memory_do_not_fit_a_store_that_stays() -> None:
    with pytest.raises(ConfigurationError, match="SDQUEUE_KEYS_URL is memory://"):
        Settings.load(keys_url="memory://", store_url="redis://h")
    with pytest.raises(ConfigurationError, match="SDQUEUE_KEYS_URL"):
        Settings.load(keys_url="amqp://h")


@pytest.mark.parametrize(
    ("store", "keys"),
    [
        ("sqlite:///a/b.db", "sqlite:///a/b.db.keys"),
        ("file:///a/b", "file:///a/b/keys"),
        ("redis://h:1/2", "redis://h:1/2"),
        ("memory://", "memory://"),
        ("null://", "memory://"),
    ],
)
def test_keys_are_beside_the_store(store: str, keys: str) -> None:
    assert default_keys_url(store) == keys


WITHOUT = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
    del sys.modules[name]
sys.modules["cryptography"] = None
import sdqueue
store = sdqueue.open_store(sdqueue.Settings.load(store_url="memory://", broker_url="memory://"))
settings = sdqueue.Settings.load(store_url="memory://", broker_url="memory://", encryption_keys=sys.argv[1])
try:
    sdqueue.open_store(settings)
except sdqueue.ConfigurationError as error:
    print(error)
"""


def test_without_the_package_it_says_what_to_install() -> None:
    """A process without ``cryptography`` works, until it is to seal."""
    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT, f"k1:{KEY}"], capture_output=True, text=True, check=True
    )
    assert "pip install 'sdqueue[encryption]'" in output.stdout
