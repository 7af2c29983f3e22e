"""The parameters of latent attention, as DeepSeek's checkpoints name their tensors."""

from jinfer.models.config import LatentAttentionConfig
from jinfer.models.stack_specs import Axis, StackSpecs
from jinfer.weights.param_spec import LAYERS, CheckpointTensor, ParamSpec


def latent_attention_params(
    attention: LatentAttentionConfig, embed: Axis, stack: StackSpecs
) -> dict[str, ParamSpec]:
    """The parameters of a stack of layers: what the hidden state gives lies in one kernel, queries (or their
    latent vector) and then the latent vector and the rotary key of the position."""
    queries = Axis("heads", attention.num_heads * attention.head_dim)
    q_latent = Axis("q_latent", attention.q_latent_dim or 0)
    down = {
        "self_attn.q_a_proj" if attention.q_latent_dim else "self_attn.q_proj": (
            q_latent if attention.q_latent_dim else queries
        ),
        "self_attn.kv_a_proj_with_mqa": Axis("latent", attention.cache_dim),
    }
    specs = {
        **stack.projection("attention/down", embed, down, bias=attention.bias),
        "attention/latent_norm/scale": stack.norm(
            "self_attn.kv_a_layernorm", Axis("latent", attention.latent_dim)
        ),
        "attention/kv_up": _kv_up(attention, stack),
        **stack.projection(
            "attention/output",
            Axis("heads", attention.num_heads * attention.value_dim),
            {"self_attn.o_proj": embed},
            bias=attention.bias,
        ),
    }
    if attention.q_latent_dim:
        specs["attention/q_norm/scale"] = stack.norm("self_attn.q_a_layernorm", q_latent)
        specs |= stack.projection("attention/q_up", q_latent, {"self_attn.q_b_proj": queries}, bias=False)
    return specs


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
