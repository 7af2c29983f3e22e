"""The parameters of latent attention, as DeepSeek's checkpoints name their tensors."""

from jinfer.models.config import LatentAttentionConfig
from jinfer.models.stack_specs import Axis, StackSpecs
from jinfer.weights.param_spec import LAYERS, CheckpointTensor, ParamSpec


def latent_attention_params(
    attention: LatentAttentionConfig, embed: Axis, stack: StackSpecs
) -> dict[str, ParamSpec]:
    """The parameters of a stack of layers. With a latent vector of queries `q` reads that, and else the
    hidden state."""
    latent = Axis("latent", attention.latent_dim)
    cached, values = Axis("latent", attention.cache_dim), attention.num_heads * attention.value_dim
    return {
        **_query_params(attention, embed, stack),
        **stack.projection(
            "attention/kv_down", embed, {"self_attn.kv_a_proj_with_mqa": cached}, bias=attention.bias
        ),
        "attention/kv_norm/scale": stack.norm("self_attn.kv_a_layernorm", latent),
        "attention/kv_up": _kv_up(attention, stack),
        **stack.projection(
            "attention/output", Axis("heads", values), {"self_attn.o_proj": embed}, bias=attention.bias
        ),
    }


def _query_params(attention: LatentAttentionConfig, embed: Axis, stack: StackSpecs) -> dict[str, ParamSpec]:
    queries = Axis("heads", attention.num_heads * attention.head_dim)
    if attention.q_latent_dim is None:
        return stack.projection("attention/q", embed, {"self_attn.q_proj": queries}, bias=False)
    latent = Axis("q_latent", attention.q_latent_dim)
    return {
        **stack.projection("attention/q_down", embed, {"self_attn.q_a_proj": latent}, bias=attention.bias),
        "attention/q_norm/scale": stack.norm("self_attn.q_a_layernorm", latent),
        **stack.projection("attention/q", latent, {"self_attn.q_b_proj": queries}, bias=False),
    }


def _kv_up(attention: LatentAttentionConfig, stack: StackSpecs) -> ParamSpec:
    """The rows of each head that make its key of a latent vector, and then those that make its value, as they
    are stored: the former are what its queries are multiplied with. They stay floats."""
    num_rows = attention.num_heads * (attention.nope_dim + attention.value_dim)
    name = f"{stack.prefix}self_attn.kv_b_proj.weight"
    return ParamSpec(
        shape=(len(stack.layers), num_rows, attention.latent_dim),
        dtype=stack.dtype,
        axes=(LAYERS, "heads", "latent"),
        init="normal",
        tensors=(CheckpointTensor(name, "latent", attention.latent_dim),),
        layers=stack.layers,
    )
