"""A real browser: headless Chromium, driven through chromium-driver."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.servers.install import BROWSER

T = TypeVar("T")

FLAGS: Final = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-default-apps",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)  # fmt: skip


def missing(environ: Mapping[str, str]) -> str | None:
    """What a browser test lacks here, ``None`` where it can run."""
    packages = [package for package, program in BROWSER.items() if not shutil.which(program, path=environ.get("PATH"))]
    if not packages:
        return None
    return f"{' and '.join(packages)} not installed; on Debian `make servers` as root installs them"


class Page:
    """The page with the chat, as a person sees it."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get(url)
        self.until(lambda: self.one("textarea").is_displayed())

    @property
    def root(self) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, "[data-sdqueue-webchat]").shadow_root

    def one(self, selector: str) -> WebElement:
        found: WebElement = self.root.find_element(By.CSS_SELECTOR, selector)
        return found

    def all(self, selector: str) -> list[WebElement]:
        found: list[WebElement] = self.root.find_elements(By.CSS_SELECTOR, selector)
        return found

    def say(self, text: str) -> None:
        self.one("textarea").send_keys(text + "\n")

    def shown(self) -> list[str]:
        """The messages in the order in which they stand, each ``who: text``, with ``*`` where one is not sent yet."""
        script = """
            const root = document.querySelector("[data-sdqueue-webchat]").shadowRoot;
            return [...root.querySelectorAll(".message")].map((m) =>
                (m.classList.contains("unsent") ? "*" : "") + m.querySelector(".who").textContent + ": " +
                m.querySelector(".text").textContent);
        """
        found: list[str] = self.driver.execute_script(script)
        return found

    def state(self) -> str:
        return self.one(".state").text

    def until(self, condition: Callable[[], T], timeout_s: float = 45.0) -> T:
        """Wait for what the page shows: a browser tells nobody when it has drawn something."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                value = condition()
            except Exception:
                if time.monotonic() > deadline:
                    raise
                value = None
            if value:
                return value
            if time.monotonic() > deadline:
                logs = self.driver.get_log("browser")
                raise AssertionError(f"it did not come; the page shows {self.shown()}, {self.state()!r}, {logs}")
            time.sleep(0.05)

    def until_shown(self, *expected: str) -> None:
        try:
            self.until(lambda: self.shown() == list(expected))
        except AssertionError as error:
            raise AssertionError(f"expected {list(expected)}: {error}") from None

    def take(self, path: Path, width: int, height: int) -> None:
        """A picture at a size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.save_screenshot(str(path))


@contextmanager
def browser(folder: Path, *more: str) -> Iterator[Page]:
    """A browser with a profile of its own."""
    options = ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={folder}", *more):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = ChromeService(shutil.which("chromedriver"), env={**os.environ, "HOME": str(folder)})
    driver = Chrome(options, service)
    try:
        yield Page(driver)
    finally:
        driver.quit()
