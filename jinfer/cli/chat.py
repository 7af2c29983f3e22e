"""`jinfer chat`."""

import argparse
from collections.abc import Callable
from typing import Any

from jinfer.cli.chat_commands import COMMANDS, run_command
from jinfer.cli.chat_session import ChatAnswer, ChatSession
from jinfer.cli.chat_terminal import LineReader, remark, stop_on_interrupt, typing_is_hidden
from jinfer.cli.chat_view import View, choose_view
from jinfer.cli.exit_status import EXIT_ERROR, EXIT_OK
from jinfer.cli.options import (
    add_engine_options,
    add_sampling_options,
    argument_text,
    engine_options,
    sampling_params,
)
from jinfer.cli.output import check_stdout, report_errors, speed
from jinfer.cli.streams import WriteError
from jinfer.config import EngineConfig
from jinfer.errors import JinferError, TokenizerError
from jinfer.llm import LLM
from jinfer.requests.request import FinishReason
from jinfer.startup import resolve_checked


def add_chat(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser("chat", help="talk with a model", description=_chat.__doc__)
    parser.add_argument(
        "--model", metavar="DIR_OR_HUB_ID", help="default: the small model that ships with jinfer"
    )
    parser.add_argument("--system", type=argument_text, metavar="TEXT", help="the system message")
    parser.add_argument(
        "--no-template",
        action="store_true",
        help="let the model continue the plain text of the conversation, without its chat template",
    )
    parser.add_argument("--plain", action="store_true", help="show text as it is, not as Markdown")
    add_sampling_options(parser)
    add_engine_options(parser)
    parser.set_defaults(run=_chat, max_num_seqs=1)


def _chat(options: argparse.Namespace) -> int:
    """`jinfer chat`: a conversation in the terminal. One request runs at a time, so that --max-num-seqs is 1
    unless it is given. /help lists what can be done besides talking."""
    params = sampling_params(options)
    chosen = engine_options(options)
    config = EngineConfig.from_options(chosen)
    check_stdout()
    resolved = resolve_checked(options.model, config)
    uses_template = _uses_template(options, resolved.tokenizer)
    view = choose_view(wants_markdown=uses_template and not options.plain)
    with LLM(resolved, **chosen) as llm:
        session = ChatSession(llm, params=params, system=options.system, uses_template=uses_template)
        return Chat(session, view).run()


def _uses_template(options: argparse.Namespace, tokenizer: Any) -> bool:
    """Raises TokenizerError for a model that cannot be talked with in the way that was asked for. The model
    that ships with jinfer tells stories, and is not asked for more."""
    has_template = tokenizer is not None and bool(tokenizer.chat_templates)
    uses_template = has_template and not options.no_template
    if tokenizer is None or not (uses_template or options.no_template or options.model is None):
        raise TokenizerError(
            "the model has no tokenizer, which a conversation needs; add its tokenizer.json"
            if tokenizer is None
            else "the model has no chat template; --no-template lets it continue plain text, or put the "
            "template of its instruction-tuned version into the model directory as chat_template.jinja"
        )
    if options.system is not None and not uses_template:
        raise TokenizerError("--system needs a chat template, and none is used; begin with the text instead")
    return uses_template


class Chat:
    """Reads messages and commands, and shows answers, until the person leaves."""

    def __init__(self, session: ChatSession, view: View) -> None:
        self.session = session
        self.reader = LineReader([f"/{name}" for name in COMMANDS])
        self.is_over = False
        self._view = view
        self._has_failed = False

    def run(self) -> int:
        """The exit status: 1 if a line of a stdin that is no terminal failed, else 0."""
        if self.reader.is_terminal:
            self._greet()
        while not self.is_over:
            try:
                self._take_turn()
            except WriteError:
                raise
            except (JinferError, OSError) as error:
                self._has_failed = True
                report_errors([str(error)])
            except KeyboardInterrupt:
                remark("interrupted")
        return EXIT_ERROR if self._has_failed and not self.reader.is_terminal else EXIT_OK

    def say(self, text: str) -> None:
        """Shows the answer to a message. An empty one lets plain text go on, and is nothing to a template."""
        if text.strip() or not self.session.uses_template:
            self._show_answer(lambda **options: self.session.say(text, **options))

    def retry(self) -> None:
        """Shows another answer to the last message."""
        self._show_answer(self.session.retry)

    def _greet(self) -> None:
        if not self.session.uses_template:
            remark("no chat template: the model continues your text; an empty line lets it go on")
        remark("/help lists the commands; Ctrl-C stops an answer; Ctrl-D leaves")

    def _take_turn(self) -> None:
        message = self.reader.read()
        if message is None:
            self.is_over = True
        elif message.startswith("/") and not message.startswith("//"):
            run_command(self, message)
        else:
            self.say(message[1:] if message.startswith("//") else message)

    def _show_answer(self, answer: Callable[..., ChatAnswer]) -> None:
        try:
            with typing_is_hidden(), stop_on_interrupt() as is_stopped, self._view() as show:
                given = answer(show=show, is_stopped=is_stopped)
        except KeyboardInterrupt:
            remark("interrupted within a step, and the turn is taken back")
        else:
            self._tell_end(given)

    def _tell_end(self, answer: ChatAnswer) -> None:
        if answer.error is not None:
            raise JinferError(f"{answer.error}; the turn is taken back")
        figures = speed(answer.num_tokens, answer.elapsed_s, first_token_s=answer.first_token_s or 0.0)
        context = f"context {answer.num_context_tokens} of {self.session.max_model_len}"
        remark(f"{_ending(answer, self.session.max_model_len)}{figures}, {context}")
        if self.reader.is_terminal:
            remark("")


def _ending(answer: ChatAnswer, max_model_len: int) -> str:
    """The remark on an answer that did not end by itself."""
    if not answer.is_kept:
        return "stopped before the first word, and the turn is taken back; "
    if answer.finish_reason is None:
        return "stopped; "
    if answer.finish_reason is not FinishReason.LENGTH:
        return ""
    is_full = answer.num_context_tokens >= max_model_len
    return "the context is full, /reset begins a new one; " if is_full else "ended by max_tokens; "
