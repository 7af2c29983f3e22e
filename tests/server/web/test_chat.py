"""Talking with the model: what is sent, and what is shown while the answer comes and afterwards."""

from selenium.webdriver.common.keys import Keys

from tests.server.web.mock_server import WAIT_S, Gate, continues, ends, says, thinks

ANSWER = ".message:last-child"


def ask(browser, text):
    browser.type(text, Keys.ENTER)


def wait_for_end(browser):
    browser.wait(lambda: browser.element("#send").is_displayed())


def test_an_answer_streams_and_its_figures_follow(browser, mock):
    gate = Gate()
    mock.answers = [[says("Some **bo"), gate, says("ld** text"), *ends()]]
    browser.open_ready(mock.url)
    assert browser.focused_id() == "prompt"
    ask(browser, "Hello")
    browser.wait_text(ANSWER, "Some **bo")
    assert browser.element("#stop").is_displayed()
    assert browser.element("#messages").get_attribute("aria-busy") == "true"
    gate.open()
    wait_for_end(browser)
    assert browser.text(f"{ANSWER} .markdown") == "Some bold text"
    assert browser.text(f"{ANSWER} strong") == "bold"
    assert browser.element("#messages").get_attribute("aria-busy") == "false"
    assert browser.text("#announcer") == "The answer has ended."
    stats = browser.text(f"{ANSWER} .stats")
    assert "3 tokens" in stats
    assert "prompt 12, 8 cached, context 15 of 512" in stats
    assert "tokens/s" in stats
    assert "first token after" in stats
    path, body = mock.next_body()
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "Hello"}]
    assert body["model"] == "mock-model"
    assert body["stream"] is True
    assert body["stream_options"]["include_usage"] is True
    assert not {"temperature", "max_tokens", "stop", "seed"} & set(body)


def test_the_next_message_has_the_whole_conversation(browser, mock):
    mock.answers = [[says("One."), *ends()], [says("Two."), *ends()]]
    browser.open_ready(mock.url)
    ask(browser, "First")
    wait_for_end(browser)
    ask(browser, "Second")
    browser.wait_text(ANSWER, "Two.")
    mock.next_body()
    assert [message["content"] for message in mock.next_body()[1]["messages"]] == ["First", "One.", "Second"]


def test_escape_stops_and_the_server_learns_of_it(browser, mock):
    mock.answers = [[says("A beginning"), Gate()]]
    browser.open_ready(mock.url)
    ask(browser, "Go on")
    browser.wait_text(ANSWER, "A beginning")
    browser.type(Keys.ESCAPE)
    assert mock.left.wait(WAIT_S)
    wait_for_end(browser)
    assert "A beginning" in browser.text(ANSWER)
    assert "stopped" in browser.text(f"{ANSWER} .stats")
    assert browser.elements(".error:not([hidden])") == []


def test_the_button_stops_too(browser, mock):
    mock.answers = [[says("A beginning"), Gate()]]
    browser.open_ready(mock.url)
    ask(browser, "Go on")
    browser.wait_text(ANSWER, "A beginning")
    browser.click("#stop")
    assert mock.left.wait(WAIT_S)
    wait_for_end(browser)


def test_regenerating_replaces_the_answer(browser, mock):
    mock.answers = [[says("Worse."), *ends()], [says("Better."), *ends()]]
    browser.open_ready(mock.url)
    ask(browser, "Try")
    wait_for_end(browser)
    browser.button("Regenerate").click()
    browser.wait_text(ANSWER, "Better.")
    assert len(browser.elements(".message")) == 2
    assert mock.next_body()[1]["messages"] == mock.next_body()[1]["messages"]


def test_the_last_message_can_be_edited(browser, mock):
    mock.answers = [[says("One."), *ends()], [says("Two."), *ends()]]
    browser.open_ready(mock.url)
    ask(browser, "Frist")
    wait_for_end(browser)
    browser.type(Keys.ARROW_UP)
    assert browser.value("#prompt") == "Frist"
    assert browser.element("#editing").is_displayed()
    browser.fill("#prompt", "First")
    browser.type(Keys.ENTER)
    browser.wait_text(ANSWER, "Two.")
    mock.next_body()
    assert mock.next_body()[1]["messages"] == [{"role": "user", "content": "First"}]
    assert not browser.element("#editing").is_displayed()


def test_shift_and_enter_start_a_line(browser, mock):
    mock.answers = [[says("Yes."), *ends()]]
    browser.open_ready(mock.url)
    browser.type("one")
    browser.type_with(Keys.SHIFT, Keys.ENTER)
    browser.type("two", Keys.ENTER)
    assert mock.next_body()[1]["messages"][0]["content"] == "one\ntwo"


def test_nothing_is_sent_without_a_text_or_while_an_answer_comes(browser, mock):
    gate = Gate()
    mock.answers = [[says("Wait"), gate, *ends()]]
    browser.open_ready(mock.url)
    browser.type("  ", Keys.ENTER)
    assert mock.bodies.empty()
    browser.fill("#prompt", "Once")
    browser.type(Keys.ENTER)
    browser.wait_text(ANSWER, "Wait")
    browser.type("Twice", Keys.ENTER)
    gate.open()
    wait_for_end(browser)
    mock.next_body()
    assert mock.bodies.empty()
    assert browser.value("#prompt") == "Twice"


def test_reasoning_is_open_while_it_comes_and_folded_afterwards(browser, mock):
    gate = Gate()
    mock.answers = [[thinks("Hmm. "), thinks("So."), gate, says("42"), *ends()]]
    browser.open_ready(mock.url)
    ask(browser, "Why?")
    browser.wait_text(".reasoning summary", "Thinking")
    browser.wait_text(".reasoning .plain", "Hmm. So.")
    gate.open()
    browser.wait_text(f"{ANSWER} .markdown", "42")
    browser.wait_text(".reasoning summary", "Thought for")
    assert browser.element(".reasoning").get_attribute("open") is None
    wait_for_end(browser)
    browser.click(".reasoning summary")
    assert "So." in browser.text(".reasoning")


def test_reasoning_under_its_older_name_and_left_unfolded_by_the_reader(browser, mock):
    gate = Gate()
    old = {"choices": [{"index": 0, "delta": {"reasoning_content": "Old."}}]}
    mock.answers = [[old, says("New."), gate, says(" More."), *ends()]]
    browser.open_ready(mock.url)
    ask(browser, "Why?")
    browser.wait_text(f"{ANSWER} .markdown", "New.")
    browser.click(".reasoning summary")
    gate.open()
    wait_for_end(browser)
    assert browser.text(".reasoning .plain") == "Old."


def test_tool_calls_are_shown_as_code(browser, mock):
    def calls(**function):
        return says("", tool_calls=[{"index": 0, "function": function}])

    begun = calls(name="get_weather", arguments='{"city": ')
    mock.answers = [[begun, calls(arguments='"Oslo"}'), *ends("tool_calls")]]
    browser.open_ready(mock.url)
    ask(browser, "Weather?")
    browser.wait_text(ANSWER, "calls tools")
    assert browser.text(".call-name") == "Calls get_weather"
    assert browser.text(".call pre") == '{\n  "city": "Oslo"\n}'


def test_a_model_without_a_template_continues_the_text(browser, mock):
    mock.model["has_chat_template"] = False
    mock.answers = [[continues(" a time"), *ends("length")], [continues(" there was"), *ends()]]
    browser.open_ready(mock.url)
    assert not browser.element("[data-chat-only]").is_displayed()
    ask(browser, "Once upon")
    browser.wait_text(ANSWER, "ended at the limit of tokens")
    assert browser.text(f"{ANSWER} .plain") == " a time"
    ask(browser, "")
    browser.wait_text(ANSWER, "there was")
    path, body = mock.next_body()
    assert (path, body["prompt"], body["max_tokens"]) == ("/v1/completions", "Once upon", 256)
    assert mock.next_body()[1]["prompt"] == "Once upon a time"


def test_settings_are_sent(browser, mock):
    mock.answers = [[says("Yes."), *ends()]]
    browser.open_ready(mock.url)
    values = {
        "temperature": "0.5",
        "top_p": "0.9",
        "top_k": "40",
        "min_p": "0.05",
        "max_tokens": "77",
        "seed": "-3",
    }
    for name, value in {**values, "system": "Be short.", "stop": "END\n\\n\\n"}.items():
        browser.fill(f"#settings [name={name}]", value)
    browser.fill("#prompt", "Go")
    browser.type(Keys.ENTER)
    body = mock.next_body()[1]
    assert {name: body[name] for name in values} == {name: float(value) for name, value in values.items()}
    assert body["stop"] == ["END", "\n\n"]
    assert body["messages"][0] == {"role": "system", "content": "Be short."}
    wait_for_end(browser)
    browser.driver.refresh()
    browser.wait_ready()
    assert browser.value("[name=temperature]") == "0.5"


def test_a_setting_outside_its_rule_sends_nothing_and_loses_nothing(browser, mock):
    browser.open_ready(mock.url)
    browser.fill("[name=temperature]", "9")
    browser.fill("#prompt", "Precious words")
    browser.type(Keys.ENTER)
    browser.wait_text("#notice", "Temperature")
    assert browser.value("#prompt") == "Precious words"
    assert mock.bodies.empty()
    assert browser.elements(".message") == []
