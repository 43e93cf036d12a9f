"""The routes of the service: which function answers what, for callers of which scope.

They compute nothing; answers.py, bundle_holder.py and run_folders.py do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse
from fastapi.security import HTTPBearer

from hushrec.common.errors import DataError
from hushrec.server.serving.answers import answer_request, find_items, similar_items
from hushrec.server.serving.edge_files import EdgeFiles
from hushrec.server.serving.items_file import item_row
from hushrec.server.serving.run_folders import describe_run, list_federations, list_runs
from hushrec.server.serving.schema import (
    Failure,
    ItemsAnswer,
    PutAnswer,
    PutItems,
    RecommendAnswer,
    RecommendRequest,
    SimilarAnswer,
)
from hushrec.server.serving.service import RecommendationService

_TYPES = {".json": "application/json"}
_bearer = HTTPBearer(auto_error=False, description="A token of: hushrec serve token new")  # for the OpenAPI page alone


def _service(request: Request) -> RecommendationService:
    found: RecommendationService = request.app.state.service
    return found


Service = Annotated[RecommendationService, Depends(_service)]


def _needs(scope: str) -> Any:
    def check(request: Request) -> None:
        scopes = request.state.scopes
        if scopes is not None and scope not in scopes:
            raise HTTPException(403, f"this token lacks the scope {scope!r}")

    return Depends(check)


_WHY = {
    400: "The body cannot be read as JSON.",
    401: "No token, or none that holds.",
    403: "The token lacks the scope; without tokens, asked by another name or by another site's page.",
    404: "There is no such thing.",
    408: "The body came too slowly.",
    409: "It does not go with what is served.",
    413: "The body is too large.",
    414: "The address is too long.",
    415: "The body is not declared as JSON.",
    422: "Something in the request is not as described here, or names what there is not.",
    429: "The token asks too often.",
    500: "The service failed; its log says where.",
    503: "Too much to do, or too many connections.",
}


def _errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": Failure, "description": _WHY[code]} for code in codes}


_UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "If-None-Match names what there is."}}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}, "application/octet-stream": {}}, "description": "The file."}
}
router = APIRouter(
    prefix="/v1", dependencies=[Depends(_bearer)], responses=_errors(401, 403, 408, 413, 414, 415, 429, 500, 503)
)
open_router = APIRouter(responses=_errors(403, 414, 500, 503))


@router.post("/recommend", dependencies=[_needs("read")], responses=_errors(400, 422))
async def recommend(asked: RecommendRequest, service: Service) -> RecommendAnswer:
    """The best items for one person, with reasons; nothing of the request is kept."""
    served = service.holder.current
    answer = await service.run(answer_request, served, service.batches, asked)
    likes = asked.interests.likes or asked.interests.dislikes
    text = bool(asked.query.strip() or asked.profile.strip() or likes)
    ids = [item.item_id for item in answer.items]
    service.metrics.observe_recommendation(served, len(asked.history), text, ids)
    return answer


@router.get("/similar", dependencies=[_needs("read")], responses=_errors(404, 422))
async def similar(
    service: Service,
    item: Annotated[str, Query(min_length=1, max_length=300, description="An item's id or title.")],
    n: Annotated[int, Query(ge=1, le=100)] = 10,
) -> SimilarAnswer:
    """Items that are near to one."""
    try:
        found = await service.run(similar_items, service.holder.current, item, n)
    except DataError as error:
        raise HTTPException(404, str(error)) from error
    return SimilarAnswer(items=found)


@router.get("/items", dependencies=[_needs("read")], responses=_errors(422))
async def items(
    service: Service,
    search: Annotated[str, Query(max_length=300, description="Part of a title, or an id.")] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> ItemsAnswer:
    """Items whose title holds the text."""
    return ItemsAnswer(items=await service.run(find_items, service.holder.current, search, limit))


@router.put("/items", dependencies=[_needs("items")], responses=_errors(400, 409, 422))
async def put_items(asked: PutItems, service: Service) -> PutAnswer:
    """Add or change items from their texts; they outlive a swap of bundles, and with --items a restart."""
    if service.settings.workers > 1 and not service.settings.items:
        why = "with several workers, items that change at run time are kept in a file: start with --items FILE"
        raise HTTPException(409, why)
    rows = [item_row(item) for item in asked.items]
    added, changed = await service.change(service.holder.put_items, rows)
    service.metrics.observe_bundle(service.holder.current, service.holder.refused)
    return PutAnswer(added=added, changed=changed)


@router.get(
    "/bundle",
    dependencies=[_needs("read")],
    response_class=Response,
    responses={200: {"content": {"application/json": {}}, "description": "The manifest."}, **_UNCHANGED},
)
async def bundle(request: Request, service: Service) -> Response:
    """The manifest for devices; its ETag is the bundle's SHA-256, and If-None-Match is answered by 304."""
    return _file(request, service, "manifest.json")


@router.get(
    "/bundle/{name}",
    dependencies=[_needs("read")],
    response_class=Response,
    responses={**_FILE, **_UNCHANGED, **_errors(404, 422)},
)
async def bundle_file(
    name: Annotated[str, PathParameter(max_length=300)], request: Request, service: Service
) -> Response:
    """One file of the bundle, by its name in the manifest."""
    return _file(request, service, name)


def _file(request: Request, service: RecommendationService, name: str) -> Response:
    served = service.holder.current
    if name not in served.files:
        raise HTTPException(404, f"the bundle has no such file; it has {', '.join(served.files)}")
    headers, unchanged = _cached(request, served.sha256)
    kind = _TYPES.get(Path(name).suffix, "application/octet-stream")
    return unchanged or Response(served.files[name], media_type=kind, headers=headers)


def _cached(request: Request, sha256: str) -> tuple[dict[str, str], Response | None]:
    """The headers of what has that hash, and 304 for who has it."""
    tag = f'"{sha256}"'
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    asked = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    return headers, Response(status_code=304, headers=headers) if tag in asked or "*" in asked else None


@router.get(
    "/edge",
    dependencies=[_needs("read")],
    response_class=Response,
    responses={
        200: {"content": {"application/json": {}}, "description": "The manifest."},
        **_UNCHANGED,
        **_errors(404),
    },
)
async def edge(request: Request, service: Service) -> Response:
    """The manifest of the edge folder of --edge; its ETag is its SHA-256, and If-None-Match is answered by 304."""
    found = await service.run(_edge(service).look)
    headers, unchanged = _cached(request, found.sha256)
    return unchanged or Response(found.manifest, media_type="application/json", headers=headers)


@router.get(
    "/edge/{name}",
    dependencies=[_needs("read")],
    response_class=Response,
    responses={**_FILE, **_UNCHANGED, **_errors(404, 422)},
)
async def edge_file(
    name: Annotated[str, PathParameter(max_length=300)], request: Request, service: Service
) -> Response:
    """One file of the edge folder, by its name in the manifest, in pieces from disk; its ETag is its SHA-256."""
    found = await service.run(_edge(service).find, name)
    if found is None:
        raise HTTPException(404, "the edge folder has no such file; its manifest names them")
    headers, unchanged = _cached(request, found.sha256)
    return unchanged or FileResponse(found.path, media_type="application/octet-stream", headers=headers)


def _edge(service: RecommendationService) -> EdgeFiles:
    if service.edge is None:
        raise HTTPException(404, "this service has no edge folder; it was started without --edge")
    return service.edge


@router.post("/admin/reload", dependencies=[_needs("admin")], responses=_errors(409))
async def reload(service: Service) -> dict[str, Any]:
    """Look at the bundle's folder now; other workers look within seconds by themselves."""
    if not await service.change(service.holder.reload):
        raise HTTPException(409, f"the bundle was refused and the old one stays: {service.holder.refused}")
    service.metrics.observe_bundle(service.holder.current, "")
    return {"sha256": service.holder.current.sha256}


@router.get("/runs", dependencies=[_needs("admin")])
async def runs(service: Service) -> dict[str, Any]:
    """The run directories under --runs."""
    return {"runs": await service.run(list_runs, Path(service.settings.runs)) if service.settings.runs else []}


@router.get("/runs/{name}", dependencies=[_needs("admin")], responses=_errors(404, 422))
async def run(name: Annotated[str, PathParameter(max_length=300)], service: Service) -> dict[str, Any]:
    """Results, rounds so far, audit and ledger of one run."""
    found = None
    if service.settings.runs:
        found = await service.run(describe_run, Path(service.settings.runs), name)
    if found is None:
        raise HTTPException(404, "there is no such run")
    return found


@router.get("/federations", dependencies=[_needs("admin")])
async def federations(service: Service) -> dict[str, Any]:
    """The federations under --federations."""
    folder = service.settings.federations
    return {"federations": await service.run(list_federations, Path(folder)) if folder else []}


@open_router.get("/healthz")
async def healthz() -> dict[str, bool]:
    """Whether the process lives."""
    return {"alive": True}


@open_router.get("/readyz")
async def readyz(service: Service) -> dict[str, Any]:
    """Which bundle answers, and why a newer one is refused, if one is."""
    served = service.holder.current
    return {
        "ready": True,
        "bundle": served.sha256,
        "experiment": served.experiment,
        "items": len(served.catalog),
        "refused": service.holder.refused,
    } | await _edge_state(service)


async def _edge_state(service: RecommendationService) -> dict[str, str]:
    """Looking here too, a service whose health is asked notices a new export without any device."""
    if service.edge is None:
        return {}
    found = await service.run(service.edge.look)
    return {"edge": found.sha256, "edge_refused": service.edge.refused}


@open_router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."}},
)
async def metrics(service: Service) -> Response:
    """For Prometheus."""
    return Response(await service.run(service.metrics.text), media_type="text/plain; version=0.0.4; charset=utf-8")
