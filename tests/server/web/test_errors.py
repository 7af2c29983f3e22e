"""What goes wrong is said where it happened, and can be tried again."""

from selenium.webdriver.common.keys import Keys

from tests.server.web.mock_server import Cut, ends, running_mock, says

ANSWER = ".message:last-child"


def test_a_refusal_is_shown_and_the_next_try_may_succeed(browser, mock):
    mock.refusals = [(503, {"message": "the queue is full"})]
    mock.answers = [[says("Now."), *ends()]]
    browser.open_ready(mock.url)
    browser.type("Hello", Keys.ENTER)
    browser.wait_text(".error", "the queue is full (The server asks to wait 7 s.)")
    browser.button("Regenerate").click()
    browser.wait_text(ANSWER, "Now.")
    assert browser.elements(".error:not([hidden])") == []


def test_an_error_within_a_stream_keeps_what_came(browser, mock):
    mock.answers = [[says("A part"), {"error": {"message": "the engine failed"}}]]
    browser.open_ready(mock.url)
    browser.type("Hello", Keys.ENTER)
    browser.wait_text(".error", "the engine failed")
    assert browser.text(f"{ANSWER} .markdown") == "A part"


def test_a_stream_without_its_end_is_an_error(browser, mock):
    mock.answers = [[says("A part"), Cut()]]
    browser.open_ready(mock.url)
    browser.type("Hello", Keys.ENTER)
    browser.wait_text(".error", "The connection ended before the answer was complete.")
    assert browser.text(f"{ANSWER} .markdown") == "A part"


def test_what_failed_is_not_sent_as_an_answer(browser, mock):
    mock.refusals = [(400, {"message": "no"})]
    mock.answers = [[says("Yes."), *ends()]]
    browser.open_ready(mock.url)
    browser.type("One", Keys.ENTER)
    browser.wait_text(".error", "no")
    browser.wait(lambda: browser.element("#send").is_displayed())
    browser.type("Two", Keys.ENTER)
    browser.wait_text(ANSWER, "Yes.")
    mock.next_body()
    assert [message["role"] for message in mock.next_body()[1]["messages"]] == ["user", "user"]


def test_a_server_that_is_gone_is_said_to_be(browser):
    with running_mock() as mock:
        browser.open_ready(mock.url)
    browser.type("Hello", Keys.ENTER)
    browser.wait_text(".error", "cannot be reached")
    browser.wait_text("#live-state", "no figures")


def test_the_key_is_asked_for_until_it_is_right(browser, mock):
    mock.key = "right"
    mock.answers = [[says("Yes."), *ends()]]
    browser.open(mock.url)
    browser.element("#key-dialog[open]")
    assert browser.focused_id() == "key"
    browser.type("wrong", Keys.ENTER)
    browser.wait_text("#key-reason", "does not accept")
    browser.wait(lambda: browser.focused_id() == "key")
    browser.type("right", Keys.ENTER)
    browser.wait_ready()
    browser.type("Hello", Keys.ENTER)
    browser.wait_text(ANSWER, "Yes.")
    browser.wait_text("[data-chart=running]", "3")
    kept = browser.driver.execute_script(
        "return [JSON.stringify(localStorage), sessionStorage['jinfer.key']]"
    )
    assert "right" not in kept[0]
    assert kept[1] == "right"


def test_a_key_that_is_no_longer_right_is_asked_for_again(browser, mock):
    browser.open_ready(mock.url)
    mock.key = "new"
    mock.answers = [[says("Yes."), *ends()]]
    browser.type("Hello", Keys.ENTER)
    browser.element("#key-dialog[open]")
    browser.type("new", Keys.ENTER)
    browser.wait(lambda: not browser.elements("#key-dialog[open]"))
    browser.button("Regenerate").click()
    browser.wait_text(ANSWER, "Yes.")
