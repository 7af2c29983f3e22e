"""/v1/models and /version."""

from fastapi import APIRouter, Response

from jinfer import __version__
from jinfer.server.api import Api
from jinfer.server.openapi import operation
from jinfer.server.protocol.models import ModelCard, ModelList, VersionBody
from jinfer.server.streaming import json_response


def models_router(api: Api) -> APIRouter:
    """The endpoints that say what is served."""
    router = APIRouter()

    @router.get("/v1/models", **operation(ModelList))
    async def list_models() -> Response:
        return json_response(ModelList(data=[_card(api, name) for name in api.models.names]))

    @router.get("/v1/models/{name:path}", **operation(ModelCard))
    async def show_model(name: str) -> Response:
        return json_response(_card(api, api.models.chosen(name)))

    @router.get("/version", **operation(VersionBody))
    async def version() -> Response:
        return json_response(VersionBody(version=__version__))

    return router


def _card(api: Api, name: str) -> ModelCard:
    return ModelCard(
        id=name,
        created=api.models.created,
        root=api.models.root,
        max_model_len=api.info.limits.max_model_len,
        has_chat_template=api.tokenizer is not None and api.tokenizer.chat_template is not None,
    )
