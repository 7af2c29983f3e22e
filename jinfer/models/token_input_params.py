"""The parameters of inputs that each token has in each layer."""

from jinfer.models.config import TokenInputsConfig
from jinfer.models.stack_specs import Axis, StackSpecs
from jinfer.weights.param_spec import CheckpointTensor, ParamSpec


def of_layers(inputs: TokenInputsConfig, embed: Axis, stack: StackSpecs) -> dict[str, ParamSpec]:
    """The parameters of a stack of layers: a gate, the projection of what passes it, and the norm of that."""
    features = Axis("token_input", inputs.size)
    gate, projection = {"per_layer_input_gate": features}, {"per_layer_projection": embed}
    return {
        **stack.projection("token_input/gate", embed, gate, bias=False),
        **stack.projection("token_input/projection", features, projection, bias=False),
        "token_input/norm/scale": stack.norm("post_per_layer_input_norm", embed),
    }


def of_model(
    inputs: TokenInputsConfig, num_layers: int, embed: Axis, stack: StackSpecs
) -> dict[str, ParamSpec]:
    """The parameters before the layers: the embedding, and the projection of the first hidden states, with
    its norm."""
    every_layer = Axis("token_inputs", num_layers * inputs.size)
    name = f"{stack.prefix}embed_tokens_per_layer.weight"
    return {
        "token_inputs/embedding": ParamSpec(
            shape=(inputs.vocab_size, every_layer.size),
            dtype=stack.dtype,
            axes=("vocab", every_layer.name),
            init="normal",
            tensors=(CheckpointTensor(name, every_layer.name, every_layer.size),),
        ),
        **stack.projection(
            "token_inputs/projection", embed, {"per_layer_model_projection": every_layer}, bias=False
        ),
        "token_inputs/norm/scale": stack.norm("per_layer_projection_norm", Axis("token_input", inputs.size)),
    }
