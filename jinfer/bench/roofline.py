"""The least time that a workload takes on a machine: its bytes over the bandwidth, its operations over the
matmul rate.

Symbols: F the matmul rate, BW the read bandwidth, W(B) the bytes of the weights that a step of B rows reads
(all but an embedding that is not the head as well; of E experts, of which a token has k at random, the
E (1 - (1 - k / E) ** B) that some row has, on average), KV(n) the bytes of keys and values, or latent
vectors, of the n positions that a token sees (fewer in layers with a window), P the parameters that multiply
every token, L those of the last layer that make none of these, H those of the head. Of a prompt, the last
layer owes keys and values of every token, and all else of the newest alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jinfer.bench.attention_work import AttentionWork
from jinfer.bench.limits import MachineLimits
from jinfer.bench.workloads import Lengths
from jinfer.execution.kv_cache import KVLayout
from jinfer.models.config import ExpertsConfig, LayerConfig, MLPConfig, ModelConfig


@dataclass(frozen=True)
class ExpertsWork:
    """The bytes of all experts of some layers, and how many of them a token has."""

    num_bytes: int
    num_experts: int
    top_k: int

    def read_bytes(self, num_rows: int) -> float:
        """Bytes of the experts that some of the rows have."""
        return self.num_bytes * (1 - (1 - self.top_k / self.num_experts) ** num_rows)


@dataclass(frozen=True)
class ModelWork:
    """The costs of a model's tokens.

    Linear layers but the head and experts multiply at `linear_rate` times the matmul rate: 2 where weights
    and activations have eight bits, and otherwise 1. P and L are counted in products of the matmul rate.
    `weight_bytes` are of all weights but the `experts`.
    """

    config: ModelConfig
    weight_bytes: int
    kv_layout: KVLayout
    linear_rate: int = 1
    experts: tuple[ExpertsWork, ...] = ()

    def read_bytes(self, num_rows: int) -> float:
        """W(B): bytes of the weights that a step of so many rows reads, on average."""
        return self.weight_bytes + sum(each.read_bytes(num_rows) for each in self.experts)

    @property
    def linear_params(self) -> int:
        """P: the parameters that multiply every token."""
        return sum(self._kv_params(layer) + self._other_params(layer) for layer in self.config.layers)

    @property
    def newest_only_params(self) -> int:
        """L: the parameters of the last layer that multiply the newest token of a prompt and no other."""
        return self._other_params(self.config.layers[-1])

    def _kv_params(self, layer: LayerConfig) -> int:
        """The parameters of a layer that make what it caches: keys and values, or latent vectors."""
        return self._attention(layer).cache_params // self.linear_rate

    def _other_params(self, layer: LayerConfig) -> int:
        """The other parameters of a layer that multiply a token: of queries, of attention's output, and of
        the MLP, or of the router and the token's experts."""
        attention, of_experts = self._attention(layer), 0
        mlp: MLPConfig | ExpertsConfig | None = layer.mlp
        if isinstance(mlp, ExpertsConfig):
            of_experts = _expert_columns(mlp)
            mlp = mlp.shared
        if layer.experts_beside is not None:
            of_experts += _expert_columns(layer.experts_beside)
        of_mlp = 0 if mlp is None else 3 * mlp.intermediate_size * self.config.hidden_size
        linear = (attention.other_params + of_mlp) // self.linear_rate
        return linear + attention.float_params + of_experts * self.config.hidden_size

    def _attention(self, layer: LayerConfig) -> AttentionWork:
        return AttentionWork.of(layer.attention, self.config.hidden_size)

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
        position_bytes = list(self.kv_layout.position_bytes())
        return sum(
            position_bytes[self.config.cache_index(number)]
            * _visible(first, last, layer.attention.sliding_window)
            for number, layer in enumerate(self.config.layers)
        )

    def attention_flops(self, first: int, last: int) -> int:
        """Operations of the two products of attention, over the pairs of tokens that see each other, of the
        tokens at positions `first` to `last` of a prompt."""
        *layers, last_layer = self.config.layers
        return sum(self._attention_flops(layer, first, last) for layer in layers) + self._attention_flops(
            last_layer, last, last
        )

    def _attention_flops(self, layer: LayerConfig, first: int, last: int) -> int:
        return self._attention(layer).pair_flops * _visible(first, last, layer.attention.sliding_window)


def _expert_columns(mlp: ExpertsConfig) -> int:
    """The columns of a router, and of the experts of a token."""
    return mlp.num_experts + 3 * mlp.routing.top_k * mlp.intermediate_size


def _visible(first: int, last: int, window: int | None) -> int:
    """Positions that the tokens at positions `first` to `last` see, themselves included, in a layer of this
    window."""
    return _triangle(last, window) - _triangle(first - 1, window)


def _triangle(n: int, window: int | None) -> int:
    """1 + 2 + ... + n, where no term exceeds the window."""
    full = n if window is None else min(n, window)
    return full * (full + 1) // 2 + (n - full) * full


def decode_step_s(work: ModelWork, limits: MachineLimits, requests: Sequence[Lengths]) -> float:
    """Seconds of a decode step of all requests together, on average over their outputs: (W(B) + KV) / BW.

    Steps make the tokens after the first: the step that makes output token k + 1 sees prompt + k positions.
    """
    num_steps = max(each.output for each in requests) - 1
    kv = sum(work.kv_bytes(each.prompt + 1, each.prompt + each.output - 1) for each in requests)
    return (work.read_bytes(len(requests)) + kv / num_steps) / (limits.read_tb_per_s * 1e12)


def least_seconds(
    work: ModelWork, limits: MachineLimits, requests: Sequence[Lengths], max_num_seqs: int
) -> float:
    """Seconds from an empty engine to the last token of all requests, at least:

        max(linear operations / F, W of all steps / BW)
        + operations of prefill's attention / F
        + sum of KV(n) / BW, for the n of each decode step

    where linear operations are 2 P a token, less 2 L a token of a prompt that is not its newest, and 2 H an
    output token; and steps are the fewest that can make the outputs: as many as the longest has, or all
    outputs over `max_num_seqs`. Experts are read as by rows in steps that are full, or by a row in each step:
    rows that are divided otherwise read more. It grants that linear layers of prefill and decode share every
    reading of the weights and hide it behind their operations; attention and linear layers run one after
    another, because each needs the other's result. Random prompts share nothing.
    """
    flop_per_s, byte_per_s = limits.matmul_tflop_per_s * 1e12, limits.read_tb_per_s * 1e12
    outputs = [each.output for each in requests]
    decode_params = work.linear_params * sum(each.output - 1 for each in requests) + work.head_params * sum(
        outputs
    )
    linear_flops = sum(work.prompt_flops(1, each.prompt) for each in requests) + 2 * decode_params
    linear_s = max(linear_flops / flop_per_s, _least_read_bytes(work, outputs, max_num_seqs) / byte_per_s)
    prefill_s = sum(work.attention_flops(1, each.prompt) for each in requests) / flop_per_s
    decode_bytes = sum(work.kv_bytes(each.prompt + 1, each.prompt + each.output - 1) for each in requests)
    return linear_s + prefill_s + decode_bytes / byte_per_s


def _least_read_bytes(work: ModelWork, outputs: Sequence[int], max_num_seqs: int) -> float:
    """Bytes of weights that are read for outputs of so many tokens. A full step reads the fewest of experts a
    row."""
    num_rows = min(max_num_seqs, len(outputs))
    num_full, num_steps = sum(outputs) / num_rows, max(*outputs, -(-sum(outputs) // max_num_seqs))
    return num_steps * work.weight_bytes + sum(
        max(num_full * each.read_bytes(num_rows), num_steps * each.read_bytes(1)) for each in work.experts
    )


def shared_prefix_seconds(work: ModelWork, limits: MachineLimits, prefix: int, own: int, count: int) -> float:
    """Seconds until `count` requests have their first token, at least, when `prefix` tokens are computed once
    and the `own` tokens of each after them: max(linear operations / F, W of all tokens / BW) + operations of
    attention / F."""
    flop_per_s = limits.matmul_tflop_per_s * 1e12
    own_linear = work.prompt_flops(prefix + 1, prefix + own) + 2 * work.head_params
    linear = work.prompt_flops(1, prefix) + count * own_linear
    attention = work.attention_flops(1, prefix) + count * work.attention_flops(prefix + 1, prefix + own)
    read_s = weights_s(work, limits, prefix + count * own)
    return max(linear / flop_per_s, read_s) + attention / flop_per_s


def weights_s(work: ModelWork, limits: MachineLimits, num_rows: int = 1) -> float:
    """Seconds of reading the weights once, which no step of so many rows is faster than: W(B) / BW."""
    return work.read_bytes(num_rows) / (limits.read_tb_per_s * 1e12)
