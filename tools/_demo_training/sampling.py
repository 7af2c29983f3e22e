"""A few stories from the trained weights, for a person to judge. No cache: the whole row is computed each
time."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from tokenizers import Tokenizer

from _demo_training.model import Params, forward
from _demo_training.rows import END_OF_TEXT_ID, Rows
from _demo_training.settings import Settings

PROMPTS = [
    "",
    "",
    "Once upon a time",
    "Once upon a time",
    "Lily and Ben",
    "One day, a little dog named Max",
    "Tom was sad because",
    '"Can you help me?" asked the rabbit.',
]


@partial(jax.jit, static_argnames="settings")
def continue_rows(
    params: Params,
    tokens: Int[Array, "rows time"],
    lengths: Int[Array, " rows"],
    temperature: Float[Array, ""] | None,
    key: Key[Array, ""],
    settings: Settings,
) -> Int[Array, "rows time"]:
    """Fills every row from its prompt's length to the end; without a temperature the best token is taken."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)

    def write(time: Int[Array, ""], tokens: Int[Array, "rows time"]) -> Int[Array, "rows time"]:
        rows = Rows(inputs=tokens, targets=tokens, positions=positions, segments=jnp.ones_like(tokens))
        logits = forward(params, rows, settings, jnp.float32)[:, time - 1]
        if temperature is None:
            chosen = jnp.argmax(logits, axis=-1)
        else:
            chosen = jax.random.categorical(jax.random.fold_in(key, time), logits / temperature)
        return tokens.at[:, time].set(jnp.where(time < lengths, tokens[:, time], chosen))

    return jax.lax.fori_loop(1, tokens.shape[1], write, tokens)


def story(tokenizer: Tokenizer, tokens: list[int]) -> str:
    """BOS and whatever follows the next <|endoftext|> are left out: [0, 7, 8, 0, 5] -> the text of [7, 8]."""
    body = tokens[1:]
    return tokenizer.decode(body[: body.index(END_OF_TEXT_ID)] if END_OF_TEXT_ID in body else body)


def sample_stories(
    params: Params, tokenizer: Tokenizer, settings: Settings, prompts: list[str], temperature: float | None
) -> list[str]:
    encoded = [tokenizer.encode(prompt).ids[: settings.max_positions] for prompt in prompts]
    tokens = np.zeros((len(prompts), settings.max_positions), np.int32)
    for row, ids in enumerate(encoded):
        tokens[row, : len(ids)] = ids
    lengths = np.array([len(ids) for ids in encoded], np.int32)
    filled = continue_rows(params, tokens, lengths, temperature, jax.random.key(settings.seed), settings)
    return [story(tokenizer, row.tolist()) for row in np.asarray(filled)]
