"""`jinfer chat`: answers, their history, commands, Ctrl-C, pipes, and what a person sees in a terminal."""

import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jinfer import LLM, FinishReason, SamplingParams, StreamPiece, cli
from jinfer.cli.chat import Chat
from jinfer.cli.chat_commands import COMMANDS, run_command
from jinfer.cli.chat_parts import Part
from jinfer.cli.chat_session import ChatSession, Show, plain_text
from jinfer.cli.chat_view import View, plain_view
from jinfer.errors import RequestError
from jinfer.text.tokenizer import Tokenizer
from tests.checkpoints import (
    BOS,
    CHAT_TEMPLATE,
    CONTEXT,
    EOS,
    TINY_ENGINE,
    tiny_tokenizer,
    write_checkpoint,
    write_json,
)
from tests.end_to_end.cli.helpers import ENGINE, REPOSITORY, new_environment
from tests.terminal import CTRL_C, TerminalProcess

GREEDY = {"temperature": 0, "max_tokens": 4, "ignore_eos": True}
ANSWER = ("--temperature", "0", "--max-tokens", "4", "--ignore-eos")
CTRL_D, ENTER = "\x04", "\r"


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def llm(directory) -> Iterator[LLM]:
    with LLM(directory, **TINY_ENGINE) as llm:
        yield llm


@pytest.fixture
def chat(llm) -> Iterator[Chat]:
    """A conversation that has begun, with greedy answers of four tokens."""
    session = ChatSession(llm, params=SamplingParams(**GREEDY), system=None, uses_template=True)
    yield Chat(session, plain_view)
    stats = llm.stats()
    assert stats.num_running == stats.num_waiting == stats.num_used_pages == 0


def answer_of(llm: LLM, messages: list[dict[str, str]]) -> str:
    return llm.chat(messages, **GREEDY)[0].text


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def spoken(monkeypatch, llm: LLM, *texts: str, end: FinishReason | None = FinishReason.STOP) -> None:
    """The model says these texts and nothing else."""
    ends = [None] * (len(texts) - 1) + [end]

    def stream(prompts, params) -> Iterator[StreamPiece]:
        for text, reason in zip(texts, ends, strict=True):
            yield StreamPiece(0, 0, text, (5,), reason, "no reason" if reason == "error" else None)

    monkeypatch.setattr(llm, "stream", stream)


def thinking_chat(monkeypatch, llm: LLM, template: str) -> Chat:
    """A conversation with a model whose template tells that it thinks."""
    names = {"bos_token": BOS, "eos_token": EOS}
    tokenizer = Tokenizer(tiny_tokenizer(), special_tokens=names, chat_template=template)
    monkeypatch.setattr(llm.parts.requests, "tokenizer", tokenizer)
    session = ChatSession(llm, params=SamplingParams(**GREEDY), system=None, uses_template=True)
    return Chat(session, plain_view)


class TestAnswers:
    def test_each_answer_continues_the_conversation_before_it(self, chat, llm, capsys):
        chat.say("the cat")
        chat.say("rain")

        first = answer_of(llm, [user("the cat")])
        history = [user("the cat"), assistant(first), user("rain")]
        assert chat.session.messages == [*history, assistant(answer_of(llm, history))]
        out, err = capsys.readouterr()
        assert out.startswith(f"{first}\n")
        assert "ended by max_tokens; 4 tokens in " in err
        assert f"context {chat.session.num_context_tokens} of {CONTEXT}" in err

    def test_the_system_message_comes_first(self, chat, llm):
        run_command(chat, "/system be kind")
        chat.say("the cat")

        system = {"role": "system", "content": "be kind"}
        assert chat.session.all_messages[:2] == [system, user("the cat")]
        assert chat.session.messages[-1]["content"] == answer_of(llm, [system, user("the cat")])

    def test_reasoning_is_shown_and_kept_apart(self, llm, monkeypatch, capsys):
        chat = thinking_chat(monkeypatch, llm, CHAT_TEMPLATE + "{# <think></think> #}")
        spoken(monkeypatch, llm, "<thi", "nk>wh", "y</think>\n\nbec", "ause")
        chat.say("the cat")

        assert chat.session.messages[-1] == {**assistant("because"), "reasoning_content": "why"}
        assert capsys.readouterr().out == "<think>\nwhy\n</think>\n\nbecause\n"

    def test_a_template_may_open_the_reasoning(self, llm, monkeypatch):
        template = CHAT_TEMPLATE.replace("[assistant] ", "<|im_start|>assistant\n<think>\n{# </think> #}")
        chat = thinking_chat(monkeypatch, llm, template)
        spoken(monkeypatch, llm, "why</think>because")
        chat.say("the cat")

        assert chat.session.messages[-1] == {**assistant("because"), "reasoning_content": "why"}

    def test_a_full_context_is_said_with_numbers_and_the_remedy(self, chat, llm, capsys):
        chat.session.params = SamplingParams(temperature=0, ignore_eos=True)
        chat.say("the cat")
        assert "the context is full, /reset begins a new one; " in capsys.readouterr().err
        before = chat.session.messages

        with pytest.raises(RequestError, match=rf"has \d+ tokens .* holds {CONTEXT}, .* /reset begins"):
            chat.say("rain")
        assert chat.session.messages == before
        run_command(chat, "/reset")
        chat.say("rain")
        assert chat.session.messages[0] == user("rain")

    def test_an_answer_that_fails_takes_the_turn_back(self, chat, llm, monkeypatch):
        spoken(monkeypatch, llm, "a", "b", end=FinishReason.ERROR)
        with pytest.raises(Exception, match="no reason; the turn is taken back"):
            chat.say("the cat")
        assert chat.session.messages == []

    def test_plain_text_is_one_text(self, llm):
        session = ChatSession(llm, params=SamplingParams(**GREEDY), system=None, uses_template=False)
        chat = Chat(session, plain_view)
        for text in ("the cat", "", "rain"):
            chat.say(text)

        texts = [message["content"] for message in session.messages]
        first = llm.generate("the cat", **GREEDY)[0].text
        second = llm.generate("the cat" + first, **GREEDY)[0].text
        assert texts[:5] == ["the cat", first, "", second, "rain"]
        assert texts[5] == llm.generate(plain_text(session.messages[:5]), **GREEDY)[0].text

    @pytest.mark.parametrize(
        ("said", "added", "expected"),
        [("a", "b", "a b"), ("a\n", "b", "a\nb"), ("a", "\nb", "a\nb"), ("a", "", "a")],
    )
    def test_a_space_parts_what_is_added_to_plain_text(self, said, added, expected):
        assert plain_text([assistant(said), user(added)]) == expected


def pressing(num_times: int) -> tuple[View, list[str]]:
    """A view in which Ctrl-C is pressed when the first text comes, and what it was shown."""
    shown: list[str] = []

    @contextlib.contextmanager
    def view() -> Iterator[Show]:
        yield show

    def show(part: Part, text: str) -> None:
        shown.append(text)
        for _ in range(num_times if len(shown) == 1 else 0):
            os.kill(os.getpid(), signal.SIGINT)

    return view, shown


class TestInterrupts:
    @pytest.fixture
    def session(self, llm) -> ChatSession:
        params = SamplingParams(temperature=0, ignore_eos=True)
        return ChatSession(llm, params=params, system=None, uses_template=True)

    def test_ctrl_c_stops_an_answer_and_keeps_what_was_said(self, session, llm, capsys):
        before = signal.getsignal(signal.SIGINT)
        view, shown = pressing(1)
        Chat(session, view).say("the cat")

        assert signal.getsignal(signal.SIGINT) is before
        assert session.messages == [user("the cat"), assistant("".join(shown))]
        assert session.last_answer.num_tokens < CONTEXT // 2
        assert "stopped; " in capsys.readouterr().err
        Chat(session, plain_view).retry()
        assert session.messages[1]["content"].startswith("".join(shown))

    def test_a_second_ctrl_c_does_not_wait_for_the_step(self, session, llm, capsys):
        view, _ = pressing(2)
        Chat(session, view).say("the cat")

        assert session.messages == []
        assert "the turn is taken back" in capsys.readouterr().err
        Chat(session, plain_view).say("the cat")
        assert len(session.messages) == 2

    def test_before_the_first_word_the_turn_is_taken_back(self, session, llm, monkeypatch, capsys):
        spoken(monkeypatch, llm, "", "late")
        answer = session.say("the cat", show=lambda part, text: None, is_stopped=lambda: True)

        assert not answer.is_kept
        assert session.messages == []


class TestCommands:
    def test_all_are_in_the_help(self, chat, capsys):
        run_command(chat, "/help")
        lines = capsys.readouterr().err.splitlines()
        assert {line.split()[0] for line in lines} >= {f"/{name}" for name in COMMANDS}

    def test_an_unknown_one_is_said(self, chat):
        with pytest.raises(RequestError, match=r"'/sav' is no command; /help lists them, .* written with //"):
            run_command(chat, "/sav file")

    def test_reset_forgets_all_but_the_system_message(self, chat, capsys):
        run_command(chat, "/system be kind")
        chat.say("the cat")
        run_command(chat, "/reset")

        assert chat.session.all_messages == [{"role": "system", "content": "be kind"}]
        assert "without the 2 messages so far" in capsys.readouterr().err
        run_command(chat, "/system")
        assert "system message: be kind" in capsys.readouterr().err
        run_command(chat, "/system -")
        assert chat.session.all_messages == []
        assert "no system message" in capsys.readouterr().err

    def test_save_and_load(self, chat, tmp_path, capsys):
        run_command(chat, "/system be kind")
        chat.say("the cat")
        before, file = chat.session.all_messages, tmp_path / "a file.json"
        run_command(chat, f"/save {file}")
        assert json.loads(file.read_text()) == before
        assert f"wrote 3 messages to {file}" in capsys.readouterr().err

        run_command(chat, "/system -")
        run_command(chat, "/reset")
        run_command(chat, f"/load {file}")
        assert chat.session.all_messages == before
        assert chat.session.num_context_tokens > 10
        run_command(chat, "/retry")
        assert chat.session.all_messages == before

    def test_save_overwrites_only_what_it_is_told_to(self, chat, tmp_path):
        file = tmp_path / "file.json"
        with pytest.raises(RequestError, match="no messages to save"):
            run_command(chat, f"/save {file}")
        chat.say("the cat")
        file.write_text("precious")
        with pytest.raises(RequestError, match=rf"file.json exists; /save! {file} overwrites it"):
            run_command(chat, f"/save {file}")
        assert file.read_text() == "precious"
        run_command(chat, f"/save! {file}")
        assert json.loads(file.read_text()) == chat.session.messages
        with pytest.raises(RequestError, match="the name of a file is missing"):
            run_command(chat, "/save")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"{", "is no JSON"),
            (b"\xff", "is no JSON"),
            (b"[]", "holds no messages"),
            (b'{"role": "user"}', "holds no messages"),
            (b'[{"role": "user", "content": 1}]', "holds no messages"),
            (
                b'[{"role": "user", "content": ""}, {"role": "system", "content": ""}]',
                "a system message after its beginning",
            ),
        ],
    )
    def test_load_refuses_what_are_no_messages(self, chat, tmp_path, content, message):
        (tmp_path / "file.json").write_bytes(content)
        chat.say("the cat")
        with pytest.raises(RequestError, match=message):
            run_command(chat, f"/load {tmp_path / 'file.json'}")
        assert len(chat.session.messages) == 2

    def test_stats_has_the_engine_and_the_last_answer(self, chat, capsys):
        run_command(chat, "/stats")
        assert "last answer" not in capsys.readouterr().err
        chat.say("the cat")
        run_command(chat, "/stats")

        err = capsys.readouterr().err
        assert "last answer  4 tokens in " in err
        assert f"context      {chat.session.num_context_tokens} of {CONTEXT} tokens" in err
        assert "messages     2\n" in err
        assert " prompt tokens, of which " in err

    def test_params_are_seen_and_set(self, chat, capsys):
        run_command(chat, "/params top_k=3 stop='. a' seed=none max_tokens=2")
        assert chat.session.params == SamplingParams(**GREEDY | {"top_k": 3, "stop": ". a", "max_tokens": 2})
        assert "max_tokens          2\n" in capsys.readouterr().err
        chat.say("the cat")
        assert chat.session.last_answer.num_tokens == 2
        run_command(chat, "/params stop=none temperature=0.5 ignore_eos=false")
        assert chat.session.params == SamplingParams(temperature=0.5, top_k=3, max_tokens=2)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("warmth=1", "'warmth=1' is not NAME=VALUE with a NAME of temperature, "),
            ("temperature", "'temperature' is not NAME=VALUE"),
            ("temperature=hot", "temperature='hot' must be a finite number from 0 to 2"),
            ("top_k=0.5", "top_k=0.5 must be an integer"),
            ("stop='a", "close the quotation mark"),
        ],
    )
    def test_params_that_cannot_be(self, chat, words, message):
        with pytest.raises(RequestError, match=message):
            run_command(chat, f"/params {words}")
        assert chat.session.params == SamplingParams(**GREEDY)

    def test_retry_answers_the_last_message_again(self, chat, llm, capsys):
        with pytest.raises(RequestError, match="no message to answer again"):
            run_command(chat, "/retry")
        chat.say("the cat")
        run_command(chat, "/params ignore_eos=true max_tokens=6")
        run_command(chat, "/retry")

        assert "the answer may only be the same" in capsys.readouterr().err
        (output,) = llm.chat([user("the cat")], **GREEDY | {"max_tokens": 6})
        assert chat.session.messages == [user("the cat"), assistant(output.text)]


class TestPipes:
    @pytest.fixture
    def piped(self, directory, monkeypatch, capsys):
        """`jinfer chat` whose stdin is no terminal."""

        def piped(text: str | bytes, *words: str) -> tuple[int, str, str]:
            content = text if isinstance(text, bytes) else text.encode()
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), "utf-8"))
            status = cli.main(["chat", "--model", str(directory), *ENGINE, *ANSWER, *words])
            return status, *capsys.readouterr()

        return piped

    def test_stdout_has_the_answers_and_nothing_else(self, piped, llm, tmp_path):
        typed = {
            "the cat": "the cat\n",
            "/ rain \nfell": "\n// rain \\\nfell\n",
            "a\n/b": "/paste\na\n/b\n/end\n",
        }
        lines = [f"{text}/save {tmp_path / str(i)}\n/reset\n" for i, text in enumerate(typed.values())]
        status, out, err = piped("".join([*lines, "/exit\nx"]), "--system", "be kind")

        prompts = [[{"role": "system", "content": "be kind"}, user(text)] for text in typed]
        answers = [answer_of(llm, prompt) for prompt in prompts]
        assert (status, out) == (0, "".join(answer.removesuffix("\n") + "\n" for answer in answers))
        saved = [json.loads((tmp_path / str(i)).read_text()) for i in range(len(typed))]
        assert saved == [[*prompt, assistant(text)] for prompt, text in zip(prompts, answers, strict=True)]
        assert "tokens/s" in err
        assert "\x1b" not in err

    def test_an_error_is_said_and_the_rest_goes_on(self, piped, llm):
        status, out, err = piped(b"/foo\n\xff\nthe cat")
        assert (status, out) == (1, answer_of(llm, [user("the cat")]) + "\n")
        assert "jinfer: error: '/foo' is no command" in err
        assert "lone surrogate" in err

    def test_a_model_without_a_template_is_refused_before_the_start(
        self, piped, directory, tmp_path, monkeypatch
    ):
        bare = write_checkpoint(tmp_path / "bare")
        write_json(bare / "tokenizer_config.json", {"bos_token": BOS, "eos_token": EOS})
        monkeypatch.setattr("jinfer.cli.chat.LLM", lambda *_, **__: pytest.fail("it was started"))
        status, out, err = piped("the cat", "--model", str(bare))
        assert (status, out) == (1, "")
        assert "no chat template; --no-template lets it continue plain text" in err
        status, _, err = piped("the cat", "--no-template", "--system", "be kind")
        assert status == 1
        assert "--system needs a chat template" in err

    def test_no_template_continues_the_text(self, piped, llm):
        status, out, _ = piped("the cat\n/system x", "--no-template")
        assert (status, out) == (1, llm.generate("the cat", **GREEDY)[0].text + "\n")


def started(*words: str | Path, **options) -> TerminalProcess:
    command = [sys.executable, "-m", "jinfer", "chat", *ENGINE, *map(str, words)]
    return TerminalProcess(command, environment=new_environment(), folder=REPOSITORY, **options)


class TestTerminal:
    def test_a_conversation(self, directory, llm, tmp_path):
        """Editing, lines of several lines, Markdown, and both ways out."""
        with contextlib.closing(started("--model", directory, *ANSWER, width=100)) as terminal:
            terminal.expect("/help lists the commands")
            terminal.expect("> ")
            terminal.type(f"the dog\x7f\x7f\x7fcat{ENTER}")
            terminal.expect("tokens/s")
            terminal.expect("> ")
            terminal.type(f"a \\{ENTER}")
            terminal.expect("... ")
            terminal.type(f"b{ENTER}")
            terminal.expect("tokens/s")
            terminal.expect("> ")
            terminal.type(f"/sa\t! {tmp_path / 'file.json'}{ENTER}")
            terminal.expect("wrote 4 messages")
            terminal.expect("> ")
            terminal.type("/foo")
            terminal.expect("/foo")
            terminal.press_ctrl_c()
            terminal.expect("> ")
            terminal.type(f"\x1b[A{ENTER}")  # the line before
            terminal.expect("wrote 4 messages")
            terminal.expect("> ")
            terminal.type(CTRL_D)
            assert terminal.wait() == 0
        messages = json.loads((tmp_path / "file.json").read_text())
        assert [messages[0], messages[2]] == [user("the cat"), user("a \nb")]
        assert messages[1] == assistant(answer_of(llm, messages[:1]))
        assert "/foo is no command" not in terminal.raw
        assert "\x1b[?25h" in terminal.raw  # the cursor is there again

    def test_ctrl_c_with_the_model_that_ships(self):
        """It ends an answer and not the program, and twice at an empty line the program."""
        with contextlib.closing(started("--seed", "3", "--ignore-eos", "--max-num-seqs", "1")) as terminal:
            terminal.expect("no chat template: the model continues your text")
            terminal.expect("> ")
            assert not terminal.echoes  # readline shows what is typed itself
            terminal.type(f"Once upon a time{ENTER}")
            terminal.expect(" was")
            terminal.type(f"typed ahead{CTRL_C}")
            terminal.expect("stopped; ")
            assert "typed ahead" not in terminal.raw
            terminal.expect("> ")
            terminal.type(f"/stats{ENTER}")
            terminal.expect("messages     2")
            terminal.expect("> ")
            terminal.press_ctrl_c()
            terminal.expect("Ctrl-C again, or Ctrl-D, leaves")
            terminal.expect("> ")
            terminal.press_ctrl_c()
            assert terminal.wait() == 0
