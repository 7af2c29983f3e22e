"""The shape of a decoder as data: what each layer is, and what lies around the layers."""

from dataclasses import dataclass
from typing import NamedTuple

from jinfer.models.rope_config import RopeConfig
from pallas_kernels.experts import ExpertActivation
from pallas_kernels.matmul import Activation
from pallas_kernels.router import RouterOptions


class RopeTable(NamedTuple):
    """The rule of a layer's rotary embedding, if it has one, and the dimensions of a head that it turns."""

    rope: RopeConfig | None
    rotary_dim: int


@dataclass(frozen=True)
class QueryGrowth:
    """Queries are multiplied by 1 + rate * log(1 + floor(position / interval)): attention stays sharp over
    long contexts."""

    rate: float
    interval: int


@dataclass(frozen=True)
class AttentionConfig:
    """Grouped-query attention. None, or False, is what the layer does without, rotary embedding too; but a
    `scale` of None, the factor of its scores, is head_dim ** -0.5.

    `has_head_norms` is an RMSNorm of queries and keys, each head by itself; `has_projection_norms` one of all
    query heads together and one of all key heads; `has_sinks` a learned score of each query head in its
    softmax; `rotary_dim` how many dimensions of a head are turned, the first ones, where that is not all.
    With `has_interleaved_rope` dimensions 2i and 2i + 1 are turned together; else those that are half of the
    turned ones apart. `query_growth` is of queries without a norm.

    `has_value_norm` is an RMSNorm of values, each head by itself and without a scale; with `keys_are_values`
    values are what keys are before their norm and rotation. A layer with a `kv_layer` has no keys and values
    of its own, and attends to those of that layer, an earlier one.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: RopeConfig | None
    qkv_bias: bool = False
    output_bias: bool = False
    has_head_norms: bool = False
    has_sinks: bool = False
    sliding_window: int | None = None
    soft_cap: float | None = None
    rotary_dim: int | None = None
    has_interleaved_rope: bool = False
    has_projection_norms: bool = False
    scale: float | None = None
    query_growth: QueryGrowth | None = None
    has_value_norm: bool = False
    keys_are_values: bool = False
    kv_layer: int | None = None

    def __post_init__(self) -> None:
        assert self.query_growth is None or not self.has_head_norms, "a norm would undo the growth"

    @property
    def query_width(self) -> int:
        """Elements of a token's queries."""
        return self.num_heads * self.head_dim

    @property
    def rope_table(self) -> RopeTable:
        """Equal for layers whose positions have the same angles."""
        return RopeTable(self.rope, self.rotary_dim or self.head_dim)


@dataclass(frozen=True)
class LatentAttentionConfig:
    """Multi-head latent attention (DeepSeek-AI, "DeepSeek-V2", 2024): a position has one latent vector of
    `latent_dim`, of which each head's key and value are made, and one rotary key of `rope_dim` for all heads.

    A head's query has `nope_dim` dimensions beside the `rope_dim` that are turned, and its value `value_dim`.
    Queries are made of a latent vector of `q_latent_dim`, or of the hidden state where that is None. `scale`
    is the factor of scores, and `bias` that of the two projections to latent vectors and of the output.
    """

    num_heads: int
    latent_dim: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    rope: RopeConfig | None
    scale: float
    q_latent_dim: int | None = None
    bias: bool = False
    has_interleaved_rope: bool = True

    @property
    def head_dim(self) -> int:
        """Dimensions of a head's query."""
        return self.nope_dim + self.rope_dim

    @property
    def cache_dim(self) -> int:
        """Elements of a position in the cache."""
        return self.latent_dim + self.rope_dim

    @property
    def query_width(self) -> int:
        """Elements of a token's queries, as they meet the cache."""
        return self.num_heads * self.cache_dim

    @property
    def sliding_window(self) -> None:
        """No layer of the kind has one."""
        return None

    @property
    def kv_layer(self) -> None:
        """Each layer of the kind has a cache of its own."""
        return None

    @property
    def rope_table(self) -> RopeTable:
        """Equal for layers whose positions have the same angles."""
        return RopeTable(self.rope, self.rope_dim)


@dataclass(frozen=True)
class MLPConfig:
    """A dense MLP with a gate, and the activation of that."""

    intermediate_size: int
    bias: bool = False
    activation: Activation = "silu"


@dataclass(frozen=True)
class ExpertsConfig:
    """Gated MLPs of one size, of which a router chooses some for each token (Shazeer et al., "Outrageously
    Large Neural Networks", 2017), and perhaps one that is `shared`: of every token.

    `bias` is of the experts and of the router's logits. With `has_correction_bias`, experts are chosen by
    their scores and a learned bias; with `has_shared_gate`, what the shared one gives is multiplied by a
    sigmoid of the token.
    """

    num_experts: int
    intermediate_size: int
    routing: RouterOptions
    bias: bool = False
    activation: ExpertActivation = "silu"
    has_correction_bias: bool = False
    shared: MLPConfig | None = None
    has_shared_gate: bool = False


@dataclass(frozen=True)
class LayerConfig:
    """One kind of layer: layers of a kind share one trace. With `has_pre_norms`, what attention and MLP read
    is normalized, and with `has_post_norms` what they give, before it is added. With `has_scale`, the hidden
    states behind the layer are multiplied by a number of its own. `experts_beside` read what a dense MLP
    reads, and both are added up, each with norms of its own."""

    attention: AttentionConfig | LatentAttentionConfig
    mlp: MLPConfig | ExpertsConfig
    has_post_norms: bool = False
    has_pre_norms: bool = True
    has_scale: bool = False
    experts_beside: ExpertsConfig | None = None

    @property
    def grouped_attention(self) -> AttentionConfig:
        """The attention of a layer whose attention is not latent."""
        assert isinstance(self.attention, AttentionConfig)
        return self.attention


@dataclass(frozen=True)
class TokenInputsConfig:
    """A second embedding of a token, with `size` features for each layer, which the layer adds in behind its
    MLP, through a gate of `activation`."""

    vocab_size: int
    size: int
    activation: Activation


@dataclass(frozen=True)
class ExpertNames:
    """Names of the tensors of experts in checkpoints. `fused_gate_up` and `fused_down` are tensors of all
    experts of a layer in place of those of each: see `FusedTensor`; their biases end in `_bias`."""

    router: str = "mlp.gate"
    correction_bias: str = "mlp.gate.e_score_correction_bias"
    gate: str = "mlp.experts.{expert}.gate_proj"
    up: str = "mlp.experts.{expert}.up_proj"
    down: str = "mlp.experts.{expert}.down_proj"
    fused_gate_up: str = "mlp.experts.gate_up_proj"
    fused_down: str = "mlp.experts.down_proj"
    has_turned_fused: bool = False
    has_interleaved_fused: bool = False
    shared: str = "mlp.shared_experts"
    shared_gate: str = "mlp.shared_expert_gate"


@dataclass(frozen=True)
class TensorNames:
    """Names of a layer's tensors in checkpoints, where families differ: one for each kind of output, or a
    single one for all; of norms by their paths, where they are not those of other families; and of
    experts."""

    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    gate_up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    down: str = "mlp.down_proj"
    norms: tuple[tuple[str, str], ...] = ()
    experts: ExpertNames = ExpertNames()


@dataclass(frozen=True)
class ModelConfig:
    """A decoder: its layers, in order, and the sizes that all of them share."""

    architecture: str
    vocab_size: int
    hidden_size: int
    layers: tuple[LayerConfig, ...]
    rms_norm_eps: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    max_context: int | None = None
    """Positions up to which plain attention is what the model was made with, where that is fewer than its
    context."""
    tensor_names: TensorNames = TensorNames()
    embedding_scale: float = 1.0
    """The factor of the embeddings, rounded to their dtype."""
    residual_scale: float = 1.0
    """The factor of what attention and MLP give, before it is added."""
    logits_divisor: float = 1.0
    logits_soft_cap: float | None = None
    """Logits become cap * tanh(logits / cap)."""
    num_prediction_layers: int = 0
    """Layers behind those of the decoder in checkpoints, which predict tokens further on and are left out."""
    norm_offset: float = 0.0
    """Every norm multiplies by this and its weight, of which the sum is float32."""
    token_inputs: TokenInputsConfig | None = None
    is_part: bool = False
    """True for the text model of a multimodal one, which lies among others' weights in checkpoints."""

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def caching_layers(self) -> tuple[int, ...]:
        """The layers with keys and values of their own, in order: one array of pages is of each."""
        return tuple(number for number, layer in enumerate(self.layers) if layer.attention.kv_layer is None)

    def cache_index(self, number: int) -> int:
        """The place among `caching_layers` of the layer whose keys and values layer `number` attends to."""
        kv_layer = self.layers[number].attention.kv_layer
        return self.caching_layers.index(number if kv_layer is None else kv_layer)

    @property
    def rope_tables(self) -> tuple[RopeTable, ...]:
        """The tables of angles that layers share, in the order of the layers."""
        return tuple(dict.fromkeys(layer.attention.rope_table for layer in self.layers))

    @property
    def _ropes(self) -> list[RopeConfig]:
        """The rules of the layers that have one: the others know no position."""
        return [table.rope for table in self.rope_tables if table.rope is not None]

    @property
    def context_length(self) -> int:
        """Positions that the model can be used for: `max_position_embeddings`, extended as its rope scaling
        does."""
        contexts = [rope.context(self.max_position_embeddings) for rope in self._ropes]
        extended = min(contexts, default=self.max_position_embeddings)
        return extended if self.max_context is None else min(extended, self.max_context)

    @property
    def depends_on_length(self) -> bool:
        """True where some layer turns a token by more than its position; see
        `RopeConfig.depends_on_length`."""
        return any(rope.depends_on_length for rope in self._ropes)

    def rotation_class(self, prompt_length: int) -> int | None:
        """Equal for prompts whose keys all layers turn alike; see `RopeConfig.rotation_class`.

        The largest class of the tables tells the others: each is None or at most the prompt's length, and
        changes only at a length that is above every class before.
        """
        classes = [rope.rotation_class(prompt_length) for rope in self._ropes]
        return max((each for each in classes if each is not None), default=None)
