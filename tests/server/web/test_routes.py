"""The files of the page as they are sent, and what a browser lets them do."""

import re

import httpx
import pytest

from jinfer.server.routes.web import DIRECTORY, MEDIA_TYPES, WEB_PATHS
from tests.server.web.mock_server import WAIT_S, running_mock


@pytest.fixture(scope="module")
def http():
    with running_mock() as mock, httpx.Client(base_url=mock.url, timeout=WAIT_S) as client:
        yield client


def test_each_file_is_sent_as_what_it_is(http):
    names = {path.name for path in DIRECTORY.iterdir() if path.suffix in MEDIA_TYPES}
    assert len(WEB_PATHS) == len(names) > 15
    for path in WEB_PATHS:
        answer = http.get(path)
        assert answer.status_code == 200, path
        name = "index.html" if path == "/" else path.removeprefix("/web/")
        assert answer.content == (DIRECTORY / name).read_bytes()
        assert answer.headers["content-type"] == MEDIA_TYPES[f".{name.rpartition('.')[2]}"]


@pytest.mark.parametrize("path", ["/", "/web/main.js"])
def test_the_headers_allow_the_pages_own_files_alone(http, path):
    headers = http.get(path).headers
    rules = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
    assert rules["default-src"] == "'self'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["object-src"] == "'none'"
    assert not {"script-src", "style-src", "connect-src"} & set(rules)
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_a_file_that_did_not_change_is_not_sent_again(http):
    first = http.get("/web/main.js")
    assert first.headers["cache-control"] == "no-cache"
    again = http.get("/web/main.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = http.get("/web/main.js", headers={"if-none-match": '"other"'})
    assert other.status_code == 200


def test_head_has_no_body(http):
    for path in ("/", "/web/base.css"):
        answer = http.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    "name", ["nothing.js", "index.html", "..%2froutes%2fweb.py", "%2e%2e/app.py", "a/../main.js%00"]
)
def test_nothing_else_is_sent(http, name):
    assert http.get(f"/web/{name}").status_code == 404


def test_no_file_names_another_host():
    for path in DIRECTORY.iterdir():
        hosts = set(re.findall(r"https?://[a-z0-9.-]+\.[a-z]+|[\"'(]//[a-z0-9.-]+", path.read_text()))
        assert hosts <= {"http://www.w3.org"}, path.name


def test_files_are_small():
    for path in DIRECTORY.iterdir():
        assert len(path.read_text().splitlines()) <= 250, path.name


def test_no_script_parses_html():
    for path in DIRECTORY.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(", path.read_text()
        )


def test_the_policy_stops_what_a_script_must_not_do(shared_browser, mock):
    shared_browser.open(mock.url)
    refused = "try { %s; return 'allowed' } catch (error) { return error.name }"
    for attack in (
        "document.body.innerHTML = '<b>x</b>'",
        "document.createElement('img').setAttribute('onerror', 'window.ran = 1')",
        "document.createElement('iframe').srcdoc = 'x'",
        "document.createElement('script').textContent = 'window.ran = 1'",
    ):
        assert shared_browser.driver.execute_script(refused % attack) == "TypeError", attack
    image = "const image = new Image(); image.src = 'https://example.com/x.png'; document.body.append(image)"
    shared_browser.driver.execute_script(image)
    shared_browser.wait(lambda: any("Loading the image" in text for text in shared_browser.problems()))
