"""The least time that a workload takes on a machine: its bytes over the bandwidth, its operations over the
matmul rate.

Symbols: F the matmul rate, BW the read bandwidth, W the bytes of the weights that a step reads (all but an
embedding that is not the head as well), KV(n) the bytes of keys and values of the n positions that a token
sees (fewer in layers with a window), P the parameters that multiply every token, L those of the last layer
that make no keys and values, H those of the head. Of a prompt, the last layer owes keys and values of every
token, and all else of the newest alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jinfer.bench.limits import MachineLimits
from jinfer.bench.workloads import Lengths
from jinfer.execution.kv_cache import KVLayout
from jinfer.models.config import LayerConfig, ModelConfig


@dataclass(frozen=True)
class ModelWork:
    """The costs of a model's tokens.

    Linear layers but the head multiply at `linear_rate` times the matmul rate: 2 where weights and
    activations have eight bits, and otherwise 1. P and L are counted in products of the matmul rate.
    """

    config: ModelConfig
    weight_bytes: int
    kv_layout: KVLayout
    linear_rate: int = 1

    @property
    def linear_params(self) -> int:
        """P: the parameters that multiply every token."""
        return sum(self._kv_params(layer) + self._other_params(layer) for layer in self.config.layers)

    @property
    def newest_only_params(self) -> int:
        """L: the parameters of the last layer that multiply the newest token of a prompt and no other."""
        return self._other_params(self.config.layers[-1])

    def _kv_params(self, layer: LayerConfig) -> int:
        """The parameters of a layer that make keys and values."""
        num_columns = 2 * layer.attention.num_kv_heads * layer.attention.head_dim
        return num_columns * self.config.hidden_size // self.linear_rate

    def _other_params(self, layer: LayerConfig) -> int:
        """The other parameters of a layer: of queries, of attention's output, and of the MLP."""
        attention = 2 * layer.attention.num_heads * layer.attention.head_dim
        num_columns = attention + 3 * layer.mlp.intermediate_size
        return num_columns * self.config.hidden_size // self.linear_rate

    def prompt_flops(self, first: int, last: int) -> int:
        """Operations of linear layers, but for the head, on the tokens at positions `first` to `last` of a
        prompt."""
        num_tokens = last - first + 1
        return 2 * (self.linear_params * num_tokens - self.newest_only_params * (num_tokens - 1))

    @property
    def head_params(self) -> int:
        """H: the parameters that multiply every token that is followed by an output token."""
        return self.config.vocab_size * self.config.hidden_size

    def kv_bytes(self, first: int, last: int) -> int:
        """Bytes of keys and values that the tokens at positions `first` to `last` (from 1) of a sequence
        read, each by itself: the sum of KV(n)."""
        return sum(
            position_bytes * _visible(first, last, layer.attention.sliding_window)
            for layer, position_bytes in zip(self.config.layers, self.kv_layout.position_bytes(), strict=True)
        )

    def attention_flops(self, first: int, last: int) -> int:
        """Operations of the two products of attention, over the pairs of tokens that see each other, of the
        tokens at positions `first` to `last` of a prompt."""
        *layers, last_layer = self.config.layers
        return sum(_attention_flops(layer, first, last) for layer in layers) + _attention_flops(
            last_layer, last, last
        )


def _attention_flops(layer: LayerConfig, first: int, last: int) -> int:
    attention = layer.attention
    return 4 * attention.num_heads * attention.head_dim * _visible(first, last, attention.sliding_window)


def _visible(first: int, last: int, window: int | None) -> int:
    """Positions that the tokens at positions `first` to `last` see, themselves included, in a layer of this
    window."""
    return _triangle(last, window) - _triangle(first - 1, window)


def _triangle(n: int, window: int | None) -> int:
    """1 + 2 + ... + n, where no term exceeds the window."""
    full = n if window is None else min(n, window)
    return full * (full + 1) // 2 + (n - full) * full


def decode_step_s(work: ModelWork, limits: MachineLimits, requests: Sequence[Lengths]) -> float:
    """Seconds of a decode step of all requests together, on average over their outputs: (W + KV) / BW.

    Steps make the tokens after the first: the step that makes output token k + 1 sees prompt + k positions.
    """
    num_steps = max(each.output for each in requests) - 1
    kv = sum(work.kv_bytes(each.prompt + 1, each.prompt + each.output - 1) for each in requests)
    return (work.weight_bytes + kv / num_steps) / (limits.read_tb_per_s * 1e12)


def least_seconds(
    work: ModelWork, limits: MachineLimits, requests: Sequence[Lengths], max_num_seqs: int
) -> float:
    """Seconds from an empty engine to the last token of all requests, at least:

        max(linear operations / F, steps * W / BW)
        + operations of prefill's attention / F
        + sum of KV(n) / BW, for the n of each decode step

    where linear operations are 2 P a token, less 2 L a token of a prompt that is not its newest, and 2 H an
    output token; and steps the fewest that can make the outputs: as many as the longest has, or all outputs
    over `max_num_seqs`. It grants that linear layers of prefill and decode share every reading of the weights
    and hide it behind their operations; attention and linear layers run one after another, because each needs
    the other's result. Random prompts share nothing.
    """
    flop_per_s, byte_per_s = limits.matmul_tflop_per_s * 1e12, limits.read_tb_per_s * 1e12
    outputs = [each.output for each in requests]
    decode_params = work.linear_params * sum(each.output - 1 for each in requests) + work.head_params * sum(
        outputs
    )
    linear_flops = sum(work.prompt_flops(1, each.prompt) for each in requests) + 2 * decode_params
    num_steps = max(*outputs, -(-sum(outputs) // max_num_seqs))
    linear_s = max(linear_flops / flop_per_s, num_steps * work.weight_bytes / byte_per_s)
    prefill_s = sum(work.attention_flops(1, each.prompt) for each in requests) / flop_per_s
    decode_bytes = sum(work.kv_bytes(each.prompt + 1, each.prompt + each.output - 1) for each in requests)
    return linear_s + prefill_s + decode_bytes / byte_per_s


def shared_prefix_seconds(work: ModelWork, limits: MachineLimits, prefix: int, own: int, count: int) -> float:
    """Seconds until `count` requests have their first token, at least, when `prefix` tokens are computed once
    and the `own` tokens of each after them: max(linear operations / F, W / BW) + operations of attention /
    F."""
    flop_per_s = limits.matmul_tflop_per_s * 1e12
    own_linear = work.prompt_flops(prefix + 1, prefix + own) + 2 * work.head_params
    linear = work.prompt_flops(1, prefix) + count * own_linear
    attention = work.attention_flops(1, prefix) + count * work.attention_flops(prefix + 1, prefix + own)
    return max(linear / flop_per_s, weights_s(work, limits)) + attention / flop_per_s


def weights_s(work: ModelWork, limits: MachineLimits) -> float:
    """Seconds of reading the weights once, which no step is faster than: W / BW."""
    return work.weight_bytes / (limits.read_tb_per_s * 1e12)
