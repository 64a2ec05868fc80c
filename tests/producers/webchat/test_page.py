"""The page in a real browser, with a real producer and consumer behind it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.conftest import refuse
from tests.producers.webchat.browser import Page, browser, missing
from tests.producers.webchat.processes import Pool, sqlite


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lacking = missing(os.environ)
    if lacking:
        refuse(f"no browser: {lacking}", os.environ)
    return tmp_path_factory.mktemp("webchat")


@pytest.fixture(scope="module")
def pool(folder: Path) -> Iterator[Pool]:
    with Pool(folder, sqlite(folder)) as pool:
        yield pool


@pytest.fixture
def page(pool: Pool, tmp_path: Path) -> Iterator[Page]:
    """The page, opened by a visitor whom nobody knows."""
    pool.gate.unlink(missing_ok=True)
    with browser(tmp_path / "profile") as page:
        page.open(f"{pool.url}/webchat/")
        page.until(lambda: page.state() == "Connected")
        yield page


def test_a_message_is_answered_in_pieces_and_is_still_there_once_after_a_reload(page: Page, pool: Pool) -> None:
    page.say("wait a moment")
    page.until_shown("You: wait a moment", "Assistant: You said ")
    assert page.one(".reply").get_attribute("aria-busy") == "true"
    pool.gate.touch()
    page.until_shown("You: wait a moment", "Assistant: You said wait a moment.")
    assert page.one(".reply").get_attribute("aria-busy") is None
    page.driver.refresh()
    page.until_shown("You: wait a moment", "Assistant: You said wait a moment.")


def test_markup_is_shown_as_text_and_runs_nothing(page: Page) -> None:
    evil = '<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>[a](javascript:window.hurt=1)'
    page.say(evil)
    page.until_shown(f"You: {evil}", f"Assistant: You said {evil}.")
    page.driver.refresh()
    page.until_shown(f"You: {evil}", f"Assistant: You said {evil}.")
    assert page.driver.execute_script("return window.hurt") is None
    assert not page.all("img, .log script, .log a")


def test_a_producer_that_is_killed_in_the_middle_of_an_answer_costs_nothing(page: Page, pool: Pool) -> None:
    page.say("wait for it")
    page.until_shown("You: wait for it", "Assistant: You said ")
    pool.kill("producer")
    page.until(lambda: "Reconnecting" in page.state())
    # What is said meanwhile waits, survives a reload from the cache, and is sent once.
    page.say("still there?")
    page.until_shown("You: wait for it", "Assistant: You said ", "*You: still there?")
    pool.gate.touch()
    pool.start("producer")
    page.until_shown(
        "You: wait for it", "Assistant: You said wait for it.", "You: still there?", "Assistant: You said still there?."
    )
    page.until(lambda: page.state() == "Connected")
    page.driver.refresh()
    page.until_shown(
        "You: wait for it", "Assistant: You said wait for it.", "You: still there?", "Assistant: You said still there?."
    )


def test_a_message_that_was_not_sent_survives_a_reload_and_is_sent_once(page: Page, pool: Pool) -> None:
    page.say("hello")
    page.until_shown("You: hello", "Assistant: You said hello.")
    pool.kill("producer")
    page.until(lambda: "Reconnecting" in page.state())
    page.say("kept")
    page.until_shown("You: hello", "Assistant: You said hello.", "*You: kept")
    page.driver.get("about:blank")
    pool.start("producer")
    page.open(f"{pool.url}/webchat/")
    page.until_shown("You: hello", "Assistant: You said hello.", "You: kept", "Assistant: You said kept.")


def test_a_killed_consumer_is_waited_for(page: Page, pool: Pool) -> None:
    page.say("wait here")
    page.until_shown("You: wait here", "Assistant: You said ")
    pool.kill("consumer")
    pool.gate.touch()
    pool.start("consumer")
    page.until_shown("You: wait here", "Assistant: You said wait here.")


def test_an_error_is_shown_with_a_button_that_tries_again(page: Page) -> None:
    page.say("fail")
    error = page.until(lambda: page.one(".error"))
    assert len(page.shown()) == 2
    error.find_element("css selector", "button").click()
    page.until(lambda: len(page.all(".error")) == 2)
    assert [line.partition(":")[0] for line in page.shown()] == ["You", "Assistant", "You", "Assistant"]


def test_everything_can_be_done_with_the_keyboard(page: Page) -> None:
    keys = page.driver.switch_to.active_element
    # The page opens the chat by itself and leaves the focus where it is.
    for _ in range(20):
        keys.send_keys(Keys.TAB)
        keys = page.driver.switch_to.active_element
        focused = page.driver.execute_script(
            "return document.querySelector('[data-sdqueue-webchat]').shadowRoot.activeElement?.id"
        )
        if focused == "input":
            break
    assert focused == "input"
    page.one("textarea").send_keys("one", Keys.SHIFT, Keys.ENTER, Keys.NULL, "two", Keys.ENTER)
    page.until_shown("You: one\ntwo", "Assistant: You said one\ntwo.")
    page.one("textarea").send_keys(Keys.ESCAPE)
    page.until(lambda: not page.one("#panel").is_displayed())
    active = "return document.querySelector('[data-sdqueue-webchat]').shadowRoot.activeElement.className"
    assert page.driver.execute_script(active) == "launcher"
    page.one(".launcher").send_keys(Keys.ENTER)
    page.until(lambda: page.one("#panel").is_displayed())


def test_without_websockets_an_event_stream_and_posts_do(pool: Pool, tmp_path: Path) -> None:
    pool.gate.unlink(missing_ok=True)
    with browser(tmp_path / "profile") as page:
        script = (
            "window.WebSocket = class { constructor() { setTimeout(() => this.onclose({ code: 1006 })); } close() {} }"
        )
        page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
        page.open(f"{pool.url}/webchat/")
        page.until(lambda: page.state() == "Connected")
        page.say("wait a moment")
        page.until_shown("You: wait a moment", "Assistant: You said ")
        pool.kill("producer")
        page.until(lambda: "Reconnecting" in page.state())
        page.say("more")
        pool.gate.touch()
        pool.start("producer")
        page.until_shown(
            "You: wait a moment", "Assistant: You said wait a moment.", "You: more", "Assistant: You said more."
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone_and_a_desk(page: Page, scheme: str, tmp_path: Path) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    page.say("a long word: " + "x" * 120)
    page.until(lambda: len(page.shown()) == 2)
    pictures = Path(os.environ.get("WEBCHAT_PICTURES", tmp_path))
    for width, height in ((320, 568), (1280, 800)):
        page.take(pictures / f"webchat-{scheme}-{width}.png", width, height)
        wide = "return document.documentElement.scrollWidth > innerWidth"
        assert not page.driver.execute_script(wide)
        for selector in ("textarea", "form button", "header button"):
            box = page.one(selector).rect
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= height
        log = page.driver.execute_script(
            "const log = document.querySelector('[data-sdqueue-webchat]').shadowRoot.querySelector('.log');"
            "return log.scrollWidth - log.clientWidth"
        )
        assert log <= 0
