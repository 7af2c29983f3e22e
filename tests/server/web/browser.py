"""A headless Chromium that looks at the page."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import ElementNotInteractableException, StaleElementReferenceException
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

WAIT_S = 120  # nothing takes so long that does not hang
NOT_YET = (StaleElementReferenceException, ElementNotInteractableException)  # the page is drawing itself anew
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # the page needs no other host
)
READ_MODULE = "const done = arguments[arguments.length - 1]; import(arguments[0]).then(%s).then(done)"


class Browser:
    """A page as its user sees it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str, *, dark: bool = False, width: int = 1280, height: int = 800) -> None:
        """Opens the page anew, with nothing kept from before, and waits until it is connected."""
        self.driver.get(url + "web/icon.svg")
        self.driver.execute_script("localStorage.clear(); sessionStorage.clear()")
        self.size(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(url)
        self.driver.get_log("browser")  # forgets those of the page before

    def open_ready(self, url: str, **how: Any) -> None:
        self.open(url, **how)
        self.wait_ready()

    def wait_ready(self) -> None:
        self.element("body[data-ready]")

    def size(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def wait(self, condition: Callable[[], Any]) -> Any:
        """What the condition gives once it is true."""
        waiting = WebDriverWait(self.driver, WAIT_S, poll_frequency=0.05, ignored_exceptions=NOT_YET)
        return waiting.until(lambda _: condition())

    def element(self, selector: str) -> WebElement:
        """The first element, once there is one."""
        return self.wait(lambda: next(iter(self.elements(selector)), None))

    def elements(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """What all such elements show."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText).join('\\n')"
        return self.driver.execute_script(script, selector)

    def wait_text(self, selector: str, text: str) -> None:
        self.wait(lambda: text in self.text(selector))

    def value(self, selector: str) -> str:
        return self.driver.execute_script("return document.querySelector(arguments[0]).value", selector)

    def click(self, selector: str) -> None:
        self.wait(lambda: self.element(selector).click() is None)

    def button(self, text: str) -> WebElement:
        """The last visible button with a text, once there is one."""
        path = f"//button[normalize-space()='{text}']"
        return self.wait(
            lambda: next(
                (each for each in reversed(self.driver.find_elements(By.XPATH, path)) if each.is_displayed()),
                None,
            )
        )

    def type(self, *keys: str) -> None:
        """Keys for whatever has the focus."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def type_with(self, modifier: str, key: str) -> None:
        ActionChains(self.driver).key_down(modifier).send_keys(key).key_up(modifier).perform()

    def fill(self, selector: str, text: str) -> None:
        field = self.element(selector)
        field.clear()
        field.send_keys(text)

    def focused_id(self) -> str:
        return self.driver.execute_script("return document.activeElement.id")

    def call(self, module: str, expression: str, *arguments: Any) -> Any:
        """What an expression gives that uses a module of the page as `m` and arguments as `a`."""
        given = json.dumps(arguments)
        script = READ_MODULE % f"(m) => {{ const a = {given}; return {expression}; }}"
        url = self.driver.execute_script("return new URL('/web/' + arguments[0], location).href", module)
        return self.driver.execute_async_script(script, url)

    def problems(self) -> list[str]:
        """Errors in the console: of scripts, and of what the policy forbade."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


def missing_program() -> str | None:
    """Why there is no browser, or None."""
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            return f"no {program} on this machine"
    return None


@contextlib.contextmanager
def running_browser() -> Iterator[Browser]:
    """A browser with a new profile."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            driver.set_script_timeout(WAIT_S)
            yield Browser(driver)
        finally:
            driver.quit()
