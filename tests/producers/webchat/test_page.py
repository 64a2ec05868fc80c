"""The page in a real browser, with a real producer and consumer behind it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from sdqueue_producers.webchat import Tokens, Visitor
from selenium.webdriver.common.keys import Keys

from tests.conftest import refuse
from tests.producers.webchat.browser import Page, browser, missing
from tests.producers.webchat.processes import Pool, sqlite
from tests.producers.webchat.stand import SECRET

pytestmark = pytest.mark.browser


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
    pool.start("producer")
    page.until_shown("You: wait for it", "Assistant: You said ", "You: still there?")
    pool.gate.touch()
    page.until_shown(
        "You: wait for it", "Assistant: You said wait for it.", "You: still there?", "Assistant: You said still there?."
    )
    page.until(lambda: page.state() == "Connected")
    page.driver.refresh()
    # Now in the order in which the server had it all: the first answer ended behind the second message.
    page.until_shown(
        "You: wait for it", "You: still there?", "Assistant: You said wait for it.", "Assistant: You said still there?."
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


def test_two_windows_keep_their_messages_and_each_is_sent_once(page: Page, pool: Pool) -> None:
    page.say("hello")
    page.until_shown("You: hello", "Assistant: You said hello.")
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("window")
    page.open(f"{pool.url}/webchat/")
    page.until_shown("You: hello", "Assistant: You said hello.")
    second = page.driver.current_window_handle
    pool.kill("producer")
    for window, text in ((first, "from one"), (second, "from two")):
        page.driver.switch_to.window(window)
        page.until(lambda: "Reconnecting" in page.state())
        page.say(text)
        page.until(lambda text=text: page.shown()[-1] == f"*You: {text}")  # type: ignore[misc]
    for window in (second, first):
        page.driver.switch_to.window(window)
        page.driver.get("about:blank")
    pool.start("producer")
    expected = {"You: hello", "You: from one", "You: from two"} | {
        f"Assistant: You said {text}." for text in ("hello", "from one", "from two")
    }
    for window in (first, second):
        page.driver.switch_to.window(window)
        page.open(f"{pool.url}/webchat/")
        page.until(lambda: len(page.shown()) == 6 and set(page.shown()) == expected)


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


@contextmanager
def shop(pool: Pool, folder: Path, attributes: str) -> Iterator[str]:
    """A page of another origin, with a policy of its own and the tag of the chat; its address."""
    folder.mkdir()
    widget = f"{pool.url}/webchat/widget.js"
    policy = f"default-src 'none'; script-src {widget}; connect-src {pool.url}/webchat/ ws://127.0.0.1:{pool.port}"
    (folder / "index.html").write_text(
        f'<!doctype html><meta http-equiv="Content-Security-Policy" content="{policy}"><title>Shop</title>'
        f"<body><h1>Shop</h1><script src='{widget}' data-open {attributes} async></script></body>"
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


def test_a_page_of_another_origin_embeds_it_by_one_tag_where_it_is_named(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "pool"
    place.mkdir()
    pool = Pool(place, sqlite(place))
    tokens = Tokens([SECRET.encode()], ["main"], time.time)
    token, _ = tokens.make(Visitor("main", "ann"), 600)
    attributes = f'data-token="{token}" data-title="Ask us" data-labels=\'{{"send": "Ask"}}\''
    with shop(pool, tmp_path / "shop", attributes) as origin, browser(tmp_path / "profile") as page:
        pool.environ["SDQUEUE_WEBCHAT_ORIGINS"] = origin
        with pool:
            page.open(origin)
            page.until(lambda: page.state() == "Connected")
            assert (page.one("h2").text, page.one("form button").text) == ("Ask us", "Ask")
            page.say("hello")
            page.until_shown("You: hello", "Assistant: You said hello.")
            assert page.driver.get_log("browser") == []  # nothing that the page's policy forbids
            # Another page, which is not named, gets nothing.
            with shop(pool, tmp_path / "evil", attributes) as stranger:
                page.open(stranger)
                page.until(lambda: "Reconnecting" in page.state())
                page.say("steal")
                assert page.shown() == ["*You: steal"]


def test_a_token_is_renewed_in_time_and_the_conversation_goes_on(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "pool"
    place.mkdir()
    with Pool(place, sqlite(place), webchat_anonymous_ttl_s="8") as pool, browser(tmp_path / "profile") as page:
        page.open(f"{pool.url}/webchat/")
        expected: list[str] = []
        for n in range(3):  # 8 s each, so that tokens end in between
            page.say(f"hello {n}")
            expected += [f"You: hello {n}", f"Assistant: You said hello {n}."]
            page.until_shown(*expected)
            page.until(lambda: "Reconnecting" in page.state())
            page.until(lambda: page.state() == "Connected")


def test_the_end_of_a_long_answer_is_in_sight(page: Page) -> None:
    """Also after a reload: nobody has to scroll to what was said last."""
    end = (
        "const log = document.querySelector('[data-sdqueue-webchat]').shadowRoot.querySelector('.log');"
        "return [log.scrollHeight > log.clientHeight, log.scrollHeight - log.scrollTop - log.clientHeight < 5]"
    )
    page.say("one line after another " * 40)
    page.until(lambda: len(page.shown()) == 2)
    page.until(lambda: page.driver.execute_script(end) == [True, True])
    page.driver.refresh()
    page.until(lambda: len(page.shown()) == 2)
    page.until(lambda: page.driver.execute_script(end) == [True, True])


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
