"""Runs a model's pure functions over a small paged cache, without an engine, and gives the logits of every
position."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jinfer.execution.kv_cache import KVCache, KVLayout
from jinfer.models.attention import TokenBatch
from jinfer.models.model import Model
from jinfer.models.registry import build_model, read_model_config
from jinfer.placement import Placement, default_placement
from jinfer.weights.hub import read_json
from jinfer.weights.params import Params
from jinfer.weights.safetensors import load_checkpoint

PAGE_SIZE = 4
STEP_TOKENS = 64  # extend steps are padded to it, so that each is the same compiled shape
FLOAT32 = jnp.dtype("float32")


@dataclass(frozen=True)
class Chunk:
    """The tokens that a step adds to a row; their positions begin at `start`."""

    start: int
    token_ids: Sequence[int]


class PagedRun:
    """A model with reference attention. Its cache begins as NaN: nothing may be read unwritten."""

    def __init__(self, model: Model, params: Params, *, dtype: jnp.dtype = FLOAT32) -> None:
        self._model, self._params, self._dtype = model, params, dtype
        (self._device,) = jax.tree.leaves(params)[0].devices()
        self._pages_per_row = -(-model.config.context_length // PAGE_SIZE)

    @classmethod
    def of_checkpoint(
        cls, directory: Path, *, dtype: jnp.dtype = FLOAT32, device: jax.Device | None = None
    ) -> "PagedRun":
        """The model of a directory, on a device: without one, on the first that JAX sees."""
        config = read_model_config(read_json(directory / "config.json"))
        model = build_model(config, dtype, "xla")
        params = load_checkpoint(model.param_specs, directory, placement=default_placement(), progress=False)
        return cls(model, params if device is None else jax.device_put(params, device), dtype=dtype)

    @property
    def depends_on_length(self) -> bool:
        """Whether it matters what the prompt is, and what follows it."""
        return self._model.config.depends_on_length

    def logits(
        self, sequences: Sequence[Sequence[int]], prompt_lengths: Sequence[int], chunk_size: int
    ) -> list[np.ndarray]:
        """[positions, vocab] of each sequence: prompts in chunks, and what follows them a token at a time.

        Sequences whose prompts are done go on, with one token each, in the steps of those whose prompts are
        not.
        """
        page_table, cache = self._new_page_table(len(sequences)), self._new_cache(len(sequences))
        logits: list[list[np.ndarray]] = [[] for _ in sequences]
        while any(len(done) < len(sequence) for done, sequence in zip(logits, sequences, strict=True)):
            plan = [
                _next_chunk(sequence, prompt_length, len(done), chunk_size)
                for sequence, prompt_length, done in zip(sequences, prompt_lengths, logits, strict=True)
            ]
            is_decode = all(len(done) >= length for done, length in zip(logits, prompt_lengths, strict=True))
            tokens = _decode_batch(plan, page_table) if is_decode else _extend_batch(plan, page_table)
            tokens = self._with_prompt_lengths(tokens, plan, prompt_lengths)
            out, cache = _step(self._model, self._params, cache, tokens)
            for row, piece in enumerate(_split(np.asarray(out), plan, is_decode=is_decode)):
                logits[row].extend(piece)
        return [np.stack(rows) for rows in logits]

    def last_logits(
        self, sequences: Sequence[Sequence[int]], starts: Sequence[int], *, are_alone: bool
    ) -> tuple[np.ndarray, KVCache]:
        """[sequences, vocab] of the last token of each, computed in two chunks that divide at `starts`; and
        the cache.

        Where the last tokens `are_alone`, no other's hidden states are asked for.
        """
        page_table, cache = self._new_page_table(len(sequences)), self._new_cache(len(sequences))
        parts = zip(sequences, starts, strict=True)
        first, second = zip(
            *((Chunk(0, s[:start]), Chunk(start, s[start:])) for s, start in parts), strict=True
        )
        for chunks in (first, second):
            tokens = _extend_batch(list(chunks), page_table)
            tokens = self._with_prompt_lengths(
                tokens, list(chunks), [len(sequence) for sequence in sequences]
            )
            last = tokens.query_starts[1:] - 1
            tokens = tokens._replace(logits_indices=last) if are_alone else tokens
            out, cache = _step(self._model, self._params, cache, tokens)
        return np.asarray(out if are_alone else out[last]), cache

    def _with_prompt_lengths(
        self, tokens: TokenBatch, plan: list[Chunk], prompt_lengths: Sequence[int]
    ) -> TokenBatch:
        """Of each token, where the model asks for them."""
        if not self.depends_on_length:
            return tokens
        is_decode = tokens.query_starts is None
        of_tokens = np.repeat(prompt_lengths, 1 if is_decode else [len(chunk.token_ids) for chunk in plan])
        padding = len(tokens.token_ids) - len(of_tokens)
        return tokens._replace(prompt_lengths=np.pad(of_tokens, (0, padding)).astype(np.int32))

    def _new_page_table(self, num_rows: int) -> np.ndarray:
        """Pages in an order that is nobody's: page 0 is the null page."""
        page_ids = 1 + np.random.default_rng(0).permutation(num_rows * self._pages_per_row)
        return page_ids.reshape(num_rows, -1).astype(np.int32)

    def _new_cache(self, num_rows: int) -> KVCache:
        config = self._model.config
        cache = Placement(self._device).zeros(
            KVLayout.of(config, PAGE_SIZE, self._dtype).abstract(1 + num_rows * self._pages_per_row)
        )
        return jax.tree.map(lambda pages: jnp.full_like(pages, jnp.nan), cache)


@jax.jit(static_argnums=0)
def _step(model: Model, params: Params, cache: KVCache, tokens: TokenBatch):
    hidden, cache = model.forward(params, cache, tokens)
    return model.logits(params, hidden), cache


def _next_chunk(sequence: Sequence[int], prompt_length: int, num_done: int, chunk_size: int) -> Chunk:
    end = min(num_done + chunk_size, prompt_length) if num_done < prompt_length else num_done + 1
    return Chunk(num_done, sequence[num_done:end])


def _decode_batch(plan: list[Chunk], page_table: np.ndarray) -> TokenBatch:
    """One token per row; a row that has ended is padding."""
    is_row = np.array([len(chunk.token_ids) for chunk in plan], np.int32)
    positions = is_row * np.array([chunk.start for chunk in plan], np.int32)
    return TokenBatch(
        token_ids=np.array([chunk.token_ids[0] if chunk.token_ids else 0 for chunk in plan], np.int32),
        positions=positions,
        page_ids=is_row * page_table[np.arange(len(plan)), positions // PAGE_SIZE],
        page_offsets=positions % PAGE_SIZE,
        page_table=page_table,
        lengths=is_row * (positions + 1),
        query_starts=None,
    )


def _extend_batch(plan: list[Chunk], page_table: np.ndarray) -> TokenBatch:
    """The rows' chunks one after the other; padding writes to the null page."""
    counts = np.array([len(chunk.token_ids) for chunk in plan], np.int32)
    starts = np.array([chunk.start for chunk in plan], np.int32)
    num_padding = STEP_TOKENS - counts.sum()
    rows = np.repeat(np.arange(len(plan)), counts)
    positions = np.concatenate(
        [start + np.arange(count) for start, count in zip(starts, counts, strict=True)]
    )
    token_ids = np.concatenate([np.array(chunk.token_ids, np.int32) for chunk in plan])
    fields = {
        "token_ids": token_ids,
        "positions": positions,
        "page_ids": page_table[rows, positions // PAGE_SIZE],
        "page_offsets": positions % PAGE_SIZE,
    }
    return TokenBatch(
        **{name: np.pad(values, (0, num_padding)).astype(np.int32) for name, values in fields.items()},
        page_table=page_table,
        lengths=starts + counts,
        query_starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
    )


def _split(logits: np.ndarray, plan: list[Chunk], *, is_decode: bool) -> list[np.ndarray]:
    """The logits of each row's tokens."""
    counts = [len(chunk.token_ids) for chunk in plan]
    if is_decode:
        return [logits[row : row + count] for row, count in enumerate(counts)]
    ends = np.cumsum(counts)
    return [logits[end - count : end] for end, count in zip(ends, counts, strict=True)]
