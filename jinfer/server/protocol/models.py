"""Bodies of /v1/models and /version."""

import msgspec


class ModelCard(msgspec.Struct):
    """A name under which the model is served. `root` is where it came from. One without `has_chat_template`
    continues texts and has no chat."""

    id: str
    created: int
    root: str
    max_model_len: int
    has_chat_template: bool
    object: str = "model"
    owned_by: str = "jinfer"
    parent: str | None = None


class ModelList(msgspec.Struct):
    """All names."""

    data: list[ModelCard]
    object: str = "list"


class VersionBody(msgspec.Struct):
    """The version of jinfer."""

    version: str
