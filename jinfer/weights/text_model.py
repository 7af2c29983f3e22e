"""The tensors of a text model in the checkpoint of a multimodal one."""

import logging
import re
from collections.abc import Iterable
from dataclasses import replace

from jinfer.weights.param_spec import ParamSpecs
from jinfer.weights.safetensors_directory import TensorFiles

logger = logging.getLogger(__name__)

DECODER, HEAD = "model.", "lm_head."
DECODERS = ("model.language_model.", "language_model.model.")
"""The beginnings that names of a decoder have there, in files of transformers 4.52 and later, and of those
before it. A checkpoint of the text model alone has `DECODER`."""
HEADS = ("language_model.lm_head.",)
OTHER_PARTS = {
    "vision": re.compile(
        r"^(model\.)?(vision_\w+|visual|multi_modal_projector|mm_projector|embed_vision|image_newline)\b"
    ),
    "audio": re.compile(r"^(model\.)?(audio_\w+|embed_audio)\b"),
}
"""The parts that are not run, by patterns of the names of their tensors."""


def text_model(specs: ParamSpecs, files: TensorFiles) -> tuple[ParamSpecs, TensorFiles]:
    """The specs with the names that the files have, and the files without tensors of other parts, whose
    number is logged."""
    names = [*files.tensors, *files.absent]
    others = {part: [name for name in names if pattern.search(name)] for part, pattern in OTHER_PARTS.items()}
    for part, of_part in others.items():
        if of_part:
            logger.info(
                "left out of %s: %d tensors of %s, such as %s", files.origin, len(of_part), part, of_part[0]
            )
    left_out = {name for of_part in others.values() for name in of_part}
    decoder, head = _beginning(names, DECODERS, DECODER), _beginning(names, HEADS, HEAD)

    def stored(name: str) -> str:
        if name.startswith(DECODER):
            return decoder + name.removeprefix(DECODER)
        return head + name.removeprefix(HEAD) if name.startswith(HEAD) else name

    return specs.renamed(stored), replace(
        files,
        tensors={name: tensor for name, tensor in files.tensors.items() if name not in left_out},
        absent={name: file for name, file in files.absent.items() if name not in left_out},
    )


def _beginning(names: Iterable[str], known: tuple[str, ...], default: str) -> str:
    """The one of `known` that some name begins with."""
    return next((one for one in known if any(name.startswith(one) for name in names)), default)
