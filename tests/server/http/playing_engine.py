"""An engine that answers every request with the same text, over a tokenizer of bytes and markers."""

from dataclasses import replace
from pathlib import Path

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from jinfer.async_queue import AsyncOutputQueue
from jinfer.requests.request import FinishReason, Request
from jinfer.text.tokenizer import Tokenizer
from tests.server.http.scripted_engine import INFO, ScriptedEngine

SPECIAL = ("<|im_start|>", "<|im_end|>")
ADDED = ("<think>", "</think>", "<tool_call>", "</tool_call>")
TEMPLATE = (
    "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}"
    "{% if message.content %}{{ message.content }}{% endif %}"
    "{% for call in message.tool_calls or [] %}"
    "<tool_call>{{ call.function.name }} {{ call.function.arguments | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_byte_tokenizer(directory: Path) -> None:
    """A token for each byte and each marker, and a template of the ChatML kind."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={piece: index for index, piece in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL))
    backend.add_tokens([AddedToken(text, normalized=False) for text in ADDED])
    backend.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(TEMPLATE)


class PlayingEngine(ScriptedEngine):
    """Plays `answer` and ends for the reason `end`. `failure` is what it fails with after the answer."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.tokenizer = Tokenizer.from_directory(directory)
        self.info = replace(INFO, tokenizer_directory=str(directory))
        self.answer = ""
        self.end: FinishReason | None = FinishReason.STOP
        self.failure: str | None = None
        self.reason: str | None = None
        self.requests: list[Request] = []

    def play(self, answer: str, *, end: FinishReason | None = FinishReason.STOP) -> None:
        """What requests get from now on."""
        self.answer, self.end, self.failure, self.reason = answer, end, None, None

    def refuse(self, reason: str) -> None:
        """What requests get from now on: an end at once, with what they ask for as its reason."""
        self.play("\0", end=FinishReason.ERROR)
        self.reason = reason

    def submit(self, queue: AsyncOutputQueue) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.requests += queue.requests
        if self.reason is not None:
            sequence = queue.requests[0].sequences[0]
            sequence.error, sequence.is_refused = self.reason, True
        self.emit(queue, self.tokenizer.encode(self.answer, add_special_tokens=False), self.end)
        if self.failure is not None:
            queue.fail(self.failure)

    @property
    def prompt(self) -> str:
        """The text of the last prompt."""
        return self.tokenizer.decode(self.requests[-1].prompt_token_ids, skip_special_tokens=False)
