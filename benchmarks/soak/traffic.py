"""Requests at random, of all kinds that clients send. Plain Python."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.soak.bodies import EXPRESSIONS, PERSON, STREAMED, Body, golden_fields

WORDS = (
    *("the", "old", "fox", "and", "a", "little", "girl", "went", "to", "see", "king", "in", "his", "garden"),
    *("where", "bird", "sang", "because", "it", "was", "happy", "but", "mother", "said", "no", "they", "ran"),
)
SHARED_BEGINNING = "Once upon a time there was a little fox who " * 5
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"


@dataclass(frozen=True)
class Exchange:
    """A request, and how its client treats the answer.

    - `content`: the body as it is sent; None of a GET.
    - `status`: the status that the answer must have.
    - `golden`: requests of one name must all get the same texts.
    - `leaves_after`: the client leaves after so many chunks of a stream, or so many hundredths of a second of
      another answer; None: it stays.
    """

    kind: str
    path: str
    content: Body | str | None = None
    status: int = 200
    golden: str | None = None
    leaves_after: int | None = None

    @property
    def body(self) -> Body:
        """The fields; none where there is no body of fields."""
        return self.content if isinstance(self.content, Mapping) else {}


class Traffic:
    """Draws requests for a model with a context of `max_model_len` tokens and, if so, a chat template."""

    def __init__(self, seed: str, *, max_model_len: int, has_chat: bool) -> None:
        self._rng = random.Random(seed)
        self._max_model_len = max_model_len
        self._max_words = max(1, min(max_model_len // 4, 300))
        self._max_tokens = max(1, min(max_model_len // 4, 200))
        self._max_characters = max_model_len - self._max_tokens - 1  # of which each is a token at most
        mix: dict[Callable[[], Exchange], int] = {
            self._plain: 6,
            self._stream: 6,
            self._leaving: 3,
            self._logprobs: 2,
            self._several: 2,
            self._stops: 2,
            self._penalties: 3,
            self._structure: 4,
            self._prompt_scores: 2,
            self._golden: 4,
            self._invalid: 3,
            self._text: 2,
            self._watching: 1,
        }
        if has_chat:
            mix |= {self._chat: 4, self._message: 2, self._response: 2}
        self._kinds, self._weights = list(mix), list(mix.values())

    def one_of_each(self) -> list[Exchange]:
        """A request of each kind, and all golden ones."""
        golden = range(len(golden_fields()))
        return [kind() for kind in self._kinds] + [self._golden_of(number) for number in golden]

    def next(self) -> Exchange:
        """A request of a kind at random."""
        (kind,) = self._rng.choices(self._kinds, self._weights)
        return kind()

    def _plain(self) -> Exchange:
        return Exchange("plain", COMPLETIONS, self._fields())

    def _stream(self) -> Exchange:
        return Exchange("stream", COMPLETIONS, self._streamed(self._fields()))

    def _leaving(self) -> Exchange:
        fields = {**self._fields(), "max_tokens": self._max_tokens, "ignore_eos": True}
        fields = self._streamed(fields) if self._rng.random() < 0.7 else fields
        return Exchange("leaving", COMPLETIONS, fields, leaves_after=self._rng.randrange(30))

    def _logprobs(self) -> Exchange:
        mode = self._rng.choice(["raw_logprobs", "processed_logprobs"])
        fields = self._fields(logprobs=self._rng.randrange(6), logprobs_mode=mode)
        return Exchange("logprobs", COMPLETIONS, self._maybe_streamed(fields))

    def _several(self) -> Exchange:
        fields = self._fields(temperature=1.0, n=2)
        if self._rng.random() < 0.3:
            fields["prompt"] = [self._prompt(), self._prompt()]
        return Exchange("several", COMPLETIONS, self._maybe_streamed(fields))

    def _stops(self) -> Exchange:
        fields = self._fields(stop=self._rng.sample([".", " and", "the", "\n", "zebra"], 2))
        return Exchange("stops", COMPLETIONS, self._maybe_streamed(fields))

    def _penalties(self) -> Exchange:
        fields = self._fields(
            presence_penalty=self._rng.uniform(-1, 2),
            frequency_penalty=self._rng.uniform(-1, 2),
            repetition_penalty=self._rng.uniform(0.8, 1.5),
            logit_bias={str(self._rng.randrange(256)): self._rng.uniform(-100, 5) for _ in range(5)},
            bad_words=["fox"],
        )
        return Exchange("penalties", COMPLETIONS, self._maybe_streamed(fields))

    def _structure(self) -> Exchange:
        rules: list[Body] = [{"regex": expression} for expression in EXPRESSIONS]
        rules += [{"json": PERSON}, {"choice": ["a cat", "a dog"]}]
        fields = self._fields(structured_outputs=self._rng.choice(rules))
        return Exchange("structure", COMPLETIONS, self._maybe_streamed(fields))

    def _prompt_scores(self) -> Exchange:
        if self._rng.random() < 0.5:
            return Exchange("prompt scores", COMPLETIONS, self._fields(prompt_logprobs=2))
        fields = self._fields(echo=True, logprobs=1)
        fields["max_tokens"] = self._rng.choice([0, 1, fields["max_tokens"]])
        return Exchange("prompt scores", COMPLETIONS, fields)

    def _golden(self) -> Exchange:
        return self._golden_of(self._rng.randrange(len(golden_fields())))

    def _golden_of(self, number: int) -> Exchange:
        fields = self._maybe_streamed(dict(golden_fields()[number]))
        return Exchange("golden", COMPLETIONS, fields, golden=str(number))

    def _invalid(self) -> Exchange:
        changes: list[Body] = [
            *(
                {"temperature": -1},
                {"top_p": 0},
                {"n": 0},
                {"max_tokens": -1},
                {"seed": -1},
                {"logprobs": 99},
            ),
            *({"stop": ""}, {"logit_bias": {"x": 1}}, {"use_beam_search": True}, {"prompt": None}),
            *({"structured_outputs": {"regex": "("}}, {"structured_outputs": {"json": {"type": "nothing"}}}),
            *({"prompt": [1] * (self._max_model_len + 1)}, {"stream": True, "prompt_logprobs": 1}),
            {"structured_outputs": {"regex": "a"}, "min_tokens": 9, "max_tokens": 9},
        ]
        refused = [Exchange("invalid", COMPLETIONS, {"prompt": "x", **change}, 400) for change in changes]
        refused += [
            Exchange("invalid", COMPLETIONS, '{"prompt": ', 400),
            Exchange("invalid", "/nowhere", status=404),
        ]
        refused += [Exchange("invalid", COMPLETIONS, {"prompt": "x", "model": "another"}, 404)]
        refused += [Exchange("invalid", CHAT, {"messages": "hello"}, 400)]
        return self._rng.choice(refused)

    def _text(self) -> Exchange:
        if self._rng.random() < 0.5:
            return Exchange("text", "/tokenize", {"prompt": self._words(), "return_token_strs": True})
        return Exchange("text", "/detokenize", {"tokens": self._token_ids()})

    def _watching(self) -> Exchange:
        return Exchange("watching", self._rng.choice(["/health", "/metrics", "/v1/models", "/version"]))

    def _chat(self) -> Exchange:
        fields = self._fields()
        messages = [{"role": "user", "content": self._words()}]
        body = {"messages": messages, **{name: value for name, value in fields.items() if name != "prompt"}}
        return Exchange("chat", CHAT, self._maybe_streamed(body))

    def _message(self) -> Exchange:
        messages = [{"role": "user", "content": self._short_words()}]
        body = {"system": "Be brief.", "messages": messages, "max_tokens": self._length()}
        return Exchange("message", MESSAGES, self._maybe(body, stream=True))

    def _response(self) -> Exchange:
        body = {"input": self._short_words(), "max_output_tokens": self._length(), "store": False}
        return Exchange("response", RESPONSES, self._maybe(body, stream=True))

    def _fields(self, **others: Any) -> dict[str, Any]:
        """A prompt, a length, and how its tokens are drawn."""
        fields: dict[str, Any] = {
            "prompt": self._prompt(),
            "max_tokens": self._length(),
            "temperature": self._rng.choice([0, 0.7, 1.0]),
        }
        if self._rng.random() < 0.5:
            fields["seed"] = self._rng.randrange(2**32)
        if self._rng.random() < 0.3:
            fields |= {"top_p": 0.9, "top_k": 40}
        return fields | others

    def _prompt(self) -> str | list[int]:
        return self._words() if self._rng.random() < 0.7 else self._token_ids()

    def _words(self) -> str:
        """Words at random; of half of the texts the first are always the same, which the server then has."""
        shared = SHARED_BEGINNING[: self._max_characters // 2] if self._rng.random() < 0.5 else ""
        words = " ".join(self._rng.choices(WORDS, k=self._num_words()))
        return (shared + words)[: self._max_characters]

    def _short_words(self) -> str:
        """Words that leave room for what a template and instructions add."""
        return self._words()[: self._max_characters // 2]

    def _length(self) -> int:
        return self._rng.randint(1, self._max_tokens)

    def _token_ids(self) -> list[int]:
        return self._rng.choices(range(1, 256), k=self._num_words())

    def _num_words(self) -> int:
        return self._rng.randint(1, self._max_words)

    def _maybe_streamed(self, fields: dict[str, Any]) -> dict[str, Any]:
        return self._maybe(fields, **STREAMED)

    def _maybe(self, fields: dict[str, Any], **others: Any) -> dict[str, Any]:
        return {**fields, **others} if self._rng.random() < 0.5 else fields

    def _streamed(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, **STREAMED}
