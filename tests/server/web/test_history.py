"""Chats that the browser keeps: opened again, exported, deleted."""

import json

from selenium.webdriver.common.keys import Keys

from tests.server.web.mock_server import WAIT_S, Gate, ends, says

ANSWER = ".message:last-child"


def ask(browser, text):
    browser.type(text, Keys.ENTER)
    browser.wait(lambda: browser.element("#send").is_displayed() and browser.elements(ANSWER))


def two_chats(browser, mock):
    mock.answers = [[says("The **first** answer."), *ends()], [says("The second answer."), *ends()]]
    browser.open_ready(mock.url)
    ask(browser, "First chat")
    browser.wait_text(ANSWER, "3 tokens")
    browser.click("#new-chat")
    assert browser.elements(".message") == []
    ask(browser, "Second chat")
    browser.wait_text(ANSWER, "3 tokens")


def test_a_chat_is_there_after_the_page_was_left(browser, mock):
    two_chats(browser, mock)
    browser.driver.refresh()
    browser.wait_ready()
    titles = browser.text(".chat-title").split("\n")
    assert titles == ["Second chat", "First chat"]
    browser.button("First chat").click()
    browser.wait_text(ANSWER, "The first answer.")
    assert browser.text(f"{ANSWER} strong") == "first"
    mock.answers = [[says("A third."), *ends()]]
    ask(browser, "And now?")
    browser.wait_text(ANSWER, "A third.")
    bodies = [mock.next_body()[1] for _ in range(3)]
    assert len(bodies[-1]["messages"]) == 3


def test_export_has_all_chats(browser, mock, tmp_path):
    behavior = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.driver.execute_cdp_cmd("Page.setDownloadBehavior", behavior)
    two_chats(browser, mock)
    browser.click("#export-chats")
    path = tmp_path / "jinfer-chats.json"
    browser.wait(path.exists)
    exported = json.loads(path.read_text())
    contents = [[message["content"] for message in chat["messages"]] for chat in exported["chats"]]
    assert contents == [["Second chat", "The second answer."], ["First chat", "The **first** answer."]]


def test_deleting_asks_first_and_deletes_one(browser, mock):
    two_chats(browser, mock)
    delete = "[aria-label='Delete “First chat”']"
    browser.click(delete)
    browser.driver.switch_to.alert.dismiss()
    assert "First chat" in browser.text(".chat-title")
    browser.click(delete)
    browser.driver.switch_to.alert.accept()
    browser.wait(lambda: browser.text(".chat-title") == "Second chat")
    browser.wait_text(ANSWER, "The second answer.")


def test_deleting_all_leaves_nothing(browser, mock):
    two_chats(browser, mock)
    browser.click("#delete-chats")
    browser.driver.switch_to.alert.accept()
    browser.wait(lambda: not browser.elements(".message"))
    kept = browser.driver.execute_script("return Object.keys(localStorage)")
    assert [key for key in kept if key.startswith("jinfer.chat.")] == []


def test_a_chat_that_is_deleted_while_it_is_answered_stays_deleted(browser, mock):
    mock.answers = [[says("A part"), Gate()]]
    browser.open_ready(mock.url)
    browser.type("Doomed", Keys.ENTER)
    browser.wait_text(ANSWER, "A part")
    browser.click("[aria-label='Delete “Doomed”']")
    browser.driver.switch_to.alert.accept()
    assert mock.left.wait(WAIT_S)
    browser.wait(lambda: browser.element("#send").is_displayed())
    assert browser.elements(".chat-title") == []


def test_what_is_no_chat_is_left_alone(browser, mock):
    browser.open_ready(mock.url)
    broken = "localStorage['jinfer.chat.1'] = '{'; localStorage['jinfer.chat.2'] = '{\"id\": 1}'"
    browser.driver.execute_script(broken)
    browser.driver.refresh()
    browser.wait_ready()
    assert browser.elements(".chat-title") == []


def test_a_full_store_is_said_and_the_answer_is_shown(browser, mock):
    mock.answers = [[says("Shown."), *ends()]]
    browser.open_ready(mock.url)
    fill = "for (let n = 2**20; n >= 1; n = n >> 1) "
    fill += "try { for (let i = 0; ; i++) localStorage[`x${n}.${i}`] = 'x'.repeat(n) } catch {}"
    browser.driver.execute_script(fill)
    browser.type("Hello", Keys.ENTER)
    browser.wait_text(ANSWER, "Shown.")
    browser.wait_text("#notice", "no more room")
