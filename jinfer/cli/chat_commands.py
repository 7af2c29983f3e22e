"""The commands of a conversation: lines that begin with a slash."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinfer.cli.chat_history import read_messages, write_messages
from jinfer.cli.chat_terminal import END_OF_PASTE, remark
from jinfer.cli.output import speed
from jinfer.errors import RequestError, shown

if TYPE_CHECKING:
    from jinfer.cli.chat import Chat

PARAMS = (
    *(
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
    ),
    *("max_tokens", "min_tokens", "seed", "stop", "ignore_eos"),
)
WORDS: Mapping[str, Any] = {"none": None, "true": True, "false": False}

KEYS = [
    ("a line that ends with \\", "goes on with the next line"),
    ("Ctrl-C", "stops an answer, or clears the line; twice at an empty line leaves"),
]


@dataclass(frozen=True)
class Command:
    """`run` gets the conversation and the rest of the line."""

    usage: str
    help: str
    run: Callable[["Chat", str], None]


def run_command(chat: "Chat", line: str) -> None:
    """Runs the command that a line names. Raises RequestError for an unknown one, and for arguments that it
    cannot use."""
    name, _, argument = line.removeprefix("/").partition(" ")
    if name not in COMMANDS:
        raise RequestError(
            f"{shown('/' + name)} is no command; /help lists them, and a message that begins with / is "
            "written with //"
        )
    COMMANDS[name].run(chat, argument.strip())


def _help(chat: "Chat", argument: str) -> None:
    lines = [(command.usage, command.help) for command in COMMANDS.values()] + KEYS
    width = max(len(usage) for usage, _ in lines)
    for usage, what in lines:
        remark(f"{usage:{width}}  {what}")


def _reset(chat: "Chat", argument: str) -> None:
    num_messages = len(chat.session.messages)
    chat.session.reset()
    remark(f"a new conversation, without the {num_messages} messages so far")


def _system(chat: "Chat", argument: str) -> None:
    session = chat.session
    if not session.uses_template:
        raise RequestError("plain text has no system message; begin with the text that should come first")
    if argument:
        session.system = None if argument == "-" else argument
    remark("no system message" if session.system is None else f"system message: {session.system}")


def _save(chat: "Chat", argument: str, *, overwrite: bool = False) -> None:
    messages = chat.session.all_messages
    write_messages(argument, messages, overwrite=overwrite)
    remark(f"wrote {len(messages)} messages to {argument}")


def _save_over(chat: "Chat", argument: str) -> None:
    _save(chat, argument, overwrite=True)


def _load(chat: "Chat", argument: str) -> None:
    system, messages = read_messages(argument)
    session = chat.session
    if system is not None and not session.uses_template:
        raise RequestError(f"{argument} has a system message, which plain text has no place for; remove it")
    num_before = len(session.messages)
    session.reset()
    session.system, session.messages = system, messages
    remark(f"{len(session.all_messages)} messages from {argument} in place of {num_before}")


def _stats(chat: "Chat", argument: str) -> None:
    session, stats = chat.session, chat.session.llm.stats()
    last = session.last_answer
    if last is not None and last.first_token_s is not None:
        figures = speed(last.num_tokens, last.elapsed_s, first_token_s=last.first_token_s)
        remark(f"last answer  {figures}")
    remark(f"context      {session.num_context_tokens} of {session.max_model_len} tokens")
    remark(f"messages     {len(session.all_messages)}")
    remark(
        f"pages        {stats.num_used_pages} used, {stats.num_cached_pages} cached, "
        f"{stats.num_free_pages} free"
    )
    remark(
        f"since start  {stats.num_prompt_tokens} prompt tokens, of which {stats.num_prefix_hit_tokens} from "
        f"the prefix cache; {stats.num_generated_tokens} generated; {stats.num_preemptions} preemptions"
    )


def _params(chat: "Chat", argument: str) -> None:
    session = chat.session
    given = dict(map(_assignment, _words(argument)))
    session.params = dataclasses.replace(session.params, **given)
    defaults = session.llm.parts.loaded.sampling_defaults
    for name in PARAMS:
        value = getattr(session.params, name)
        from_model = f" (the model's: {defaults[name]})" if value is None and name in defaults else ""
        remark(f"{name:18}  {'none' if value is None else value}{from_model}")


def _words(argument: str) -> list[str]:
    try:
        return shlex.split(argument)
    except ValueError as error:
        raise RequestError(f"{argument!r} cannot be read: {error}; close the quotation mark") from error


def _assignment(word: str) -> tuple[str, Any]:
    name, equals, value = word.partition("=")
    if not equals or name not in PARAMS:
        raise RequestError(f"{word!r} is not NAME=VALUE with a NAME of {', '.join(PARAMS)}")
    return name, value if name == "stop" and value != "none" else _number_or_word(value)


def _number_or_word(text: str) -> Any:
    """SamplingParams refuses what is of the wrong type."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return WORDS.get(text.lower(), text)


def _retry(chat: "Chat", argument: str) -> None:
    params = chat.session.params
    if params.seed is not None or params.temperature == 0:
        remark("the answer may only be the same: /params seed=none temperature=1 would let it differ")
    chat.retry()


def _paste(chat: "Chat", argument: str) -> None:
    remark(f"paste a text; a line with {END_OF_PASTE} alone ends it, and Ctrl-C drops it")
    text = chat.reader.read_paste()
    if text is not None:
        chat.say(text)


def _exit(chat: "Chat", argument: str) -> None:
    chat.is_over = True


COMMANDS: Mapping[str, Command] = {
    "help": Command("/help", "these lines", _help),
    "reset": Command("/reset", "begin a new conversation; the system message stays", _reset),
    "system": Command("/system [TEXT]", "show or set the system message; - removes it", _system),
    "retry": Command("/retry", "answer the last message once more", _retry),
    "paste": Command("/paste", f"a message of several lines, up to {END_OF_PASTE}", _paste),
    "params": Command("/params [NAME=VALUE ...]", "show or set the sampling parameters", _params),
    "stats": Command("/stats", "tokens/s of the last answer, the context, the engine", _stats),
    "save": Command("/save FILE", "write the messages as JSON into a new file", _save),
    "save!": Command("/save! FILE", "the same, over a file that is there", _save_over),
    "load": Command("/load FILE", "go on with the messages of a file", _load),
    "exit": Command("/exit", "leave, as Ctrl-D does", _exit),
}
