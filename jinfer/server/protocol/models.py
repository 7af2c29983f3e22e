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
    """All names. `models` is Codex's catalogue, which it must find and may find empty: a model that is not in
    it is used by the name that its user gives."""

    data: list[ModelCard]
    models: tuple[()] = ()
    object: str = "list"


class VersionBody(msgspec.Struct):
    """The version of jinfer."""

    version: str
