"""generation_config.json: ends of sequence, defaults of sampling, and entries that are not applied.

As in transformers, a model without that file may have its entries in config.json.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinfer.entries import shown
from jinfer.errors import RequestError, UnsupportedModelError
from jinfer.requests.sampling_params import MODEL_DEFAULTS, SamplingParams
from jinfer.text.tokenizer import Tokenizer
from jinfer.weights.hub import read_json

logger = logging.getLogger(__name__)

FILE = "generation_config.json"
OFF: tuple[Any, ...] = (False, 0)
ONE: tuple[Any, ...] = (1,)
EMPTY: tuple[Any, ...] = ([], {}, "", ())

CHANGES_GREEDY_TOKENS: Mapping[str, tuple[Any, ...]] = {
    "encoder_repetition_penalty": ONE,
    "no_repeat_ngram_size": OFF,
    "encoder_no_repeat_ngram_size": OFF,
    "bad_words_ids": EMPTY,
    "suppress_tokens": EMPTY,
    "begin_suppress_tokens": EMPTY,
    "sequence_bias": EMPTY,
    "forced_bos_token_id": (),
    "forced_eos_token_id": EMPTY,
    "force_words_ids": EMPTY,
    "constraints": EMPTY,
    "min_length": OFF,
    "min_new_tokens": OFF,
    "exponential_decay_length_penalty": EMPTY,
    "guidance_scale": ONE,
    "watermarking_config": EMPTY,
    "token_healing": OFF,
    "penalty_alpha": OFF,
    "dola_layers": EMPTY,
    "num_beams": ONE,
}
"""Entries that change which tokens transformers' `generate` chooses, and the values at which they do not;
null never does."""
CHANGES_OTHERS: Mapping[str, tuple[Any, ...]] = {
    "typical_p": ONE,
    "epsilon_cutoff": OFF,
    "eta_cutoff": OFF,
    "top_h": (),
    "max_length": (),
    "max_new_tokens": (),
    "max_time": (),
    "stop_strings": EMPTY,
    "num_return_sequences": ONE,
    "remove_invalid_values": OFF,
    "cache_implementation": ("dynamic", "static", "offloaded", "offloaded_static", "hybrid", "paged"),
}
"""Entries that change sampled tokens, or where a sequence ends."""
OF_BEAMS: Mapping[str, tuple[Any, ...]] = {
    "length_penalty": ONE,
    "early_stopping": OFF,
    "num_beam_groups": ONE,
    "diversity_penalty": OFF,
}
"""Entries that mean something to a search of several beams alone."""


@dataclass(frozen=True, eq=False)
class GenerationConfig:
    """The entries, and the name of their file."""

    entries: Mapping[str, Any]
    file: str

    @classmethod
    def of(cls, directory: Path | None, raw: Mapping[str, Any]) -> "GenerationConfig":
        """The entries of generation_config.json, else those of config.json, `raw`. Raises
        UnsupportedModelError."""
        path = None if directory is None else directory / FILE
        is_there = path is not None and path.is_file()
        return cls(read_json(path), FILE) if path is not None and is_there else cls(raw, "config.json")

    def sampling_defaults(self) -> dict[str, Any]:
        """The values of `MODEL_DEFAULTS` that the model sets. They are logged, because they surprise users.

        They apply with any value of `do_sample`. A value that no request could have is left out, and logged
        as well.
        """
        defaults = {}
        for name in MODEL_DEFAULTS:
            value = self.entries.get(name)
            if value is None:
                continue
            try:
                SamplingParams(**{name: value})
            except RequestError as error:
                logger.warning(
                    "%s sets a sampling default that jinfer does not have: %s. It is left out, and %s is %s "
                    "unless a request says otherwise",
                    self.file,
                    error,
                    name,
                    MODEL_DEFAULTS[name],
                )
            else:
                defaults[name] = value
        if said := {name: value for name, value in defaults.items() if value != MODEL_DEFAULTS[name]}:
            taken = ", ".join(f"{name}={value}" for name, value in said.items())
            is_greedy = self.entries.get("do_sample") is False
            greedy = "; transformers' generate is greedy, as it says do_sample=False: ask for temperature=0"
            logger.info("sampling defaults from %s: %s%s", self.file, taken, greedy if is_greedy else "")
        return defaults

    def say_what_is_not_applied(self) -> None:
        """Logs the entries that change the results of transformers' `generate` and that jinfer does not
        apply."""
        has_beams = "num_beams" in self._found(CHANGES_GREEDY_TOKENS)
        greedy = {**self._found(CHANGES_GREEDY_TOKENS), **(self._found(OF_BEAMS) if has_beams else {})}
        for found, level, what in (
            (greedy, logging.WARNING, "greedy tokens differ from those of transformers' generate"),
            (
                self._found(CHANGES_OTHERS),
                logging.INFO,
                "sampled tokens, or where they end, differ from transformers'",
            ),
        ):
            if found:
                names = ", ".join(f"{name}={shown(value)}" for name, value in found.items())
                logger.log(
                    level, "%s has entries that jinfer does not apply, so that %s: %s", self.file, what, names
                )

    def _found(self, neutral: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
        """Entries that are there with a value that changes something."""
        values = {name: self.entries.get(name) for name in neutral}
        return {
            name: value for name, value in values.items() if value is not None and value not in neutral[name]
        }

    def eos_token_ids(
        self, raw: Mapping[str, Any], tokenizer: Tokenizer | None, vocab_size: int
    ) -> frozenset[int]:
        """The ids of generation_config.json, else those of config.json, `raw`; and the tokenizer's own.

        An id outside the vocabulary cannot be sampled: it is left out, which is logged.
        """
        name = "eos_token_id"
        named, file = (
            (self.entries[name], self.file) if name in self.entries else (raw.get(name), "config.json")
        )
        ids = dict.fromkeys(_token_ids(named, file), file)
        if tokenizer is not None and tokenizer.eos_token_id is not None:
            ids.setdefault(tokenizer.eos_token_id, "the tokenizer")
        for token_id, source in ids.items():
            if not 0 <= token_id < vocab_size:
                logger.warning(
                    "%s names eos_token_id %d, outside the vocabulary of %d: it is left out, as it cannot "
                    "be sampled",
                    source,
                    token_id,
                    vocab_size,
                )
        return frozenset(token_id for token_id in ids if 0 <= token_id < vocab_size)


def _token_ids(value: Any, file: str) -> list[int]:
    """The ids of an entry: an id, a list of them, or null."""
    ids = [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
    for token_id in ids:
        if not isinstance(token_id, int) or isinstance(token_id, bool):
            raise UnsupportedModelError(
                f"{file} has eos_token_id {shown(value)}; it must be an integer or a list of integers: "
                "correct it"
            )
    return ids
