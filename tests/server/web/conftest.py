"""One browser for all tests of the page, and a new server for each."""

from collections.abc import Iterator

import pytest

from tests.server.web.browser import Browser, missing_program, running_browser
from tests.server.web.mock_server import MockServer, running_mock


@pytest.fixture(scope="session")
def shared_browser() -> Iterator[Browser]:
    reason = missing_program()
    if reason is not None:
        pytest.skip(f"{reason}; Debian's packages chromium and chromium-driver have them")
    with running_browser() as browser:
        yield browser


@pytest.fixture
def browser(shared_browser: Browser) -> Iterator[Browser]:
    """The browser, whose console must stay free of errors of scripts and of what the policy forbids."""
    yield shared_browser
    assert [text for text in shared_browser.problems() if "Failed to load resource" not in text] == []


@pytest.fixture
def mock() -> Iterator[MockServer]:
    with running_mock() as mock:
        yield mock
