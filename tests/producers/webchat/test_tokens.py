"""Visitor tokens: what is accepted, what is not, and which sessions they open."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sdqueue_producers.webchat import Tokens, Visitor, WebchatSettings
from sdqueue_producers.webchat.tokens import TokenRefused

from sdqueue.errors import ConfigurationError

OLD, NEW = b"old-secret-" + b"o" * 32, b"new-secret-" + b"n" * 32


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_token_says_who_somebody_is_until_it_expires() -> None:
    clock = Clock()
    tokens = Tokens([NEW], ["main"], clock)
    token, _ = tokens.make(Visitor("main", "ann"), 60)
    assert tokens.read(token).visitor == Visitor("main", "ann")
    clock.now += 59
    assert tokens.read(token).expires_at == 1_700_000_060
    clock.now += 1
    with pytest.raises(TokenRefused) as refused:
        tokens.read(token)
    assert refused.value.reason == "expired-token"


def test_secrets_are_rotated_without_a_visitor_noticing() -> None:
    clock = Clock()
    token, _ = Tokens([OLD], ["main"], clock).make(Visitor("main", "ann"), 60)
    both = Tokens([NEW, OLD], ["main"], clock)
    assert both.read(token).visitor.name == "ann"
    newer, _ = both.make(Visitor("main", "ann"), 60)
    assert Tokens([NEW], ["main"], clock).read(newer).visitor.name == "ann"
    with pytest.raises(TokenRefused):
        Tokens([NEW], ["main"], clock).read(token)


def test_a_token_of_a_site_that_is_not_served_is_foreign() -> None:
    token, _ = Tokens([NEW], ["other"], Clock()).make(Visitor("other", "ann"), 60)
    with pytest.raises(TokenRefused) as refused:
        Tokens([NEW], ["main"], Clock()).read(token)
    assert refused.value.reason == "foreign-token"


def test_no_character_of_a_token_can_be_changed() -> None:
    tokens = Tokens([NEW], ["main"], Clock())
    token, _ = tokens.make(Visitor("main", "ann"), 60)
    for at in range(len(token)):
        for other in "Aa.-":
            changed = token[:at] + other + token[at + 1 :]
            if changed != token:
                with pytest.raises(TokenRefused):
                    tokens.read(changed)


def test_claims_without_a_signature_of_ours_are_nothing() -> None:
    claims = base64.urlsafe_b64encode(
        json.dumps({"aud": "main", "sub": "ann", "iat": 1, "exp": 2**40}).encode()
    ).decode()
    for token in (
        f"v1.{claims}.",
        f"v1.{claims}",
        f"v1..{claims}",
        f"none.{claims}.",
        "v1..",
        "...",
        "v1.{}." + "A" * 43,
    ):
        with pytest.raises(TokenRefused):
            Tokens([NEW], ["main"], Clock()).read(token)


@settings(deadline=None)
@given(st.text(max_size=80))
def test_whatever_is_shown_is_refused_and_nothing_else(text: str) -> None:
    for token in (text, f"v1.{text}", f"v1.{text}.{text}"):
        with pytest.raises(TokenRefused):
            Tokens([NEW], ["main"], Clock()).read(token)


@settings(deadline=None)
@given(st.text(min_size=1, max_size=256), st.text(min_size=1, max_size=256))
def test_two_visitors_never_share_a_session(one: str, other: str) -> None:
    sessions = {Visitor("main", name).session_id(talk) for name in (one, other) for talk in ("", "two")}
    assert len(sessions) == 2 * len({one, other})
    assert all(1 <= len(session) <= 256 and session.isprintable() for session in sessions)


def test_a_plain_visitor_can_be_read_in_the_session_id() -> None:
    assert Visitor("main", "ann@example.org").session_id() == "webchat:main:ann@example.org"
    assert Visitor("main", "ann").session_id("billing") == "webchat:main:ann:billing"
    assert Visitor("main", "ann:billing").session_id().startswith("webchat:main:~")
    with pytest.raises(ValueError, match="conversation"):
        Visitor("main", "ann").session_id("a:b")


def test_settings_that_cannot_be_safe_are_refused_and_never_shown() -> None:
    with pytest.raises(ConfigurationError, match="at least 32") as short:
        WebchatSettings.load(secrets="hunter2")
    assert "hunter2" not in str(short.value)
    for wrong in (
        {"secrets": ","},
        {"origins": "shop.example"},
        {"origins": "https://a.example/path"},
        {"sites": "a:b"},
    ):
        with pytest.raises(ConfigurationError):
            WebchatSettings.load(**{"secrets": "x" * 40} | wrong)
    with pytest.raises(ConfigurationError, match="SDQUEUE_WEBCHAT_SECRETS"):
        WebchatSettings.load()


def test_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDQUEUE_WEBCHAT_SECRETS", f"{'a' * 32}, {'b' * 32}")
    monkeypatch.setenv("SDQUEUE_WEBCHAT_ORIGINS", "https://shop.example,http://localhost:3000")
    monkeypatch.setenv("SDQUEUE_WEBCHAT_SITES", "shop,blog")
    settings = WebchatSettings.load()
    assert settings.signing == (b"a" * 32, b"b" * 32)
    assert settings.origins == ("https://shop.example", "http://localhost:3000")
    assert settings.sites == ("shop", "blog")
