"""The training loop: AdamW, an average of the weights, and the average that did best on the validation
stories."""

import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from _demo_training.model import Params, forward, init_params, summed_loss
from _demo_training.rows import PADDING_SEGMENT, Rows, padded_batches
from _demo_training.settings import Settings

# Dropout draws a hundred million bits a step; this generator is several times faster than the default one.
KEY_IMPLEMENTATION = "rbg"


class TrainState(NamedTuple):
    params: Params
    average: Params
    optimizer: optax.OptState
    step: Int[Array, ""]


class Evaluation(NamedTuple):
    step: int
    train_loss: float
    validation_loss: float


class Result(NamedTuple):
    best_params: Params
    best: Evaluation
    num_tokens: int
    seconds: float


def is_decayed(params: Params) -> Params:
    """Weight decay pulls towards zero, where a norm's weight would switch its channel off."""
    return jax.tree_util.tree_map_with_path(lambda path, _: not path[-1].key.endswith("norm"), params)


def make_optimizer(settings: Settings) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        decay_steps=settings.num_steps,
        end_value=settings.final_learning_rate,
    )
    adamw = optax.adamw(schedule, b2=settings.adam_beta2, weight_decay=settings.weight_decay, mask=is_decayed)
    return optax.chain(optax.clip_by_global_norm(settings.max_gradient_norm), adamw)


def init_state(settings: Settings) -> TrainState:
    params = init_params(settings, jax.random.key(settings.seed))
    # A copy: a step donates its state, and one buffer cannot be donated twice.
    average = jax.tree.map(jnp.copy, params)
    return TrainState(params, average, make_optimizer(settings).init(params), jnp.zeros((), jnp.int32))


@partial(jax.jit, static_argnames="settings", donate_argnames="state")
def train_step(
    state: TrainState, rows: Rows, key: Key[Array, ""], settings: Settings
) -> tuple[TrainState, Float[Array, ""]]:
    def mean_loss(params: Params) -> Float[Array, ""]:
        logits = forward(params, rows, settings, jnp.bfloat16, jax.random.fold_in(key, state.step))
        total, num_targets = summed_loss(logits, rows)
        return total / num_targets

    loss, gradients = jax.value_and_grad(mean_loss)(state.params)
    updates, optimizer = make_optimizer(settings).update(gradients, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    # Early on the average follows quickly, else the random start would stay in it.
    decay = jnp.minimum(settings.ema_decay, (1 + state.step) / (10 + state.step))
    average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.average, params)
    return TrainState(params, average, optimizer, state.step + 1), loss


@partial(jax.jit, static_argnames="settings")
def batch_loss(params: Params, rows: Rows, settings: Settings) -> tuple[Float[Array, ""], Int[Array, ""]]:
    with jax.default_matmul_precision("highest"):
        return summed_loss(forward(params, rows, settings, jnp.float32), rows)


def evaluate(params: Params, rows: Rows, settings: Settings) -> tuple[float, int]:
    """Summed loss in nats in float32, without dropout, and the number of targets it is over."""
    sums = [batch_loss(params, batch, settings) for batch in padded_batches(rows, settings.batch_rows)]
    return sum(float(loss) for loss, _ in sums), sum(int(num) for _, num in sums)


def mean_validation_loss(params: Params, rows: Rows, settings: Settings) -> float:
    total, num_targets = evaluate(params, rows, settings)
    return total / num_targets


def train(settings: Settings, batches: Iterator[Rows], validation: Rows) -> Result:
    """Consumes all batches; every `eval_every` steps the averaged weights are judged and the best ones
    kept."""
    state, key = init_state(settings), jax.random.key(settings.seed, impl=KEY_IMPLEMENTATION)
    best_params, best, losses, num_tokens = None, None, [], 0
    started = time.perf_counter()
    for step, batch in enumerate(batches, start=1):
        state, loss = train_step(state, batch, key, settings)
        losses.append(loss)
        num_tokens += int(np.count_nonzero(batch.segments != PADDING_SEGMENT))
        if step % settings.eval_every and step != settings.num_steps:
            continue
        latest = Evaluation(
            step,
            float(jnp.mean(jnp.stack(losses))),
            mean_validation_loss(state.average, validation, settings),
        )
        losses.clear()
        if best is None or latest.validation_loss < best.validation_loss:
            best_params, best = jax.tree.map(jnp.copy, state.average), latest
        report(latest, best, num_tokens, time.perf_counter() - started, settings)
    return Result(best_params, best, num_tokens, time.perf_counter() - started)


def report(latest: Evaluation, best: Evaluation, num_tokens: int, seconds: float, settings: Settings) -> None:
    print(
        f"step {latest.step:5d}/{settings.num_steps}  train {latest.train_loss:.4f}  "
        f"validation {latest.validation_loss:.4f} (best {best.validation_loss:.4f} at {best.step})  "
        f"{num_tokens / seconds:,.0f} tokens/s  {seconds:.0f} s",
        file=sys.stderr,
    )
