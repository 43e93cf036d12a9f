"""The routes of the service: which function answers what, for callers of which scope.

They compute nothing; answers.py, bundle_holder.py and run_folders.py do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.security import HTTPBearer

from hushrec.common.catalog import ItemRow
from hushrec.server.serving.answers import answer_request, find_items, similar_items
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


_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": Failure} for code in (400, 401, 403, 404, 408, 409, 413, 414, 422, 429)
}
router = APIRouter(prefix="/v1", dependencies=[Depends(_bearer)], responses=_ERRORS)
open_router = APIRouter()


@router.post("/recommend", dependencies=[_needs("read")])
async def recommend(asked: RecommendRequest, service: Service) -> RecommendAnswer:
    """The best items for one person, with reasons; nothing of the request is kept."""
    served = service.holder.current
    answer = await service.run(answer_request, served, service.batches, asked)
    likes = asked.interests.likes or asked.interests.dislikes
    text = bool(asked.query.strip() or asked.profile.strip() or likes)
    ids = [item.item_id for item in answer.items]
    service.metrics.observe_recommendation(served, len(asked.history), text, ids)
    return answer


@router.get("/similar", dependencies=[_needs("read")])
async def similar(
    service: Service,
    item: Annotated[str, Query(min_length=1, max_length=300, description="An item's id or title.")],
    n: Annotated[int, Query(ge=1, le=100)] = 10,
) -> SimilarAnswer:
    """Items that are near to one."""
    found = await service.run(similar_items, service.holder.current, item, n)
    return SimilarAnswer(items=found)


@router.get("/items", dependencies=[_needs("read")])
async def items(
    service: Service,
    search: Annotated[str, Query(max_length=300, description="Part of a title, or an id.")] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> ItemsAnswer:
    """Items whose title holds the text."""
    return ItemsAnswer(items=await service.run(find_items, service.holder.current, search, limit))


@router.put("/items", dependencies=[_needs("items")])
async def put_items(asked: PutItems, service: Service) -> PutAnswer:
    """Add or change items from their texts; they hold until the service ends, beyond a swap of bundles."""
    if service.settings.workers > 1:
        raise HTTPException(409, "with several workers, items cannot change at run time; put them into the next bundle")
    rows = [
        ItemRow(item.item_id, item.title, "" if item.year is None else str(item.year), tuple(item.genres))
        for item in asked.items
    ]
    added, changed = await service.run(service.holder.put_items, rows)
    service.metrics.observe_bundle(service.holder.current, service.holder.refused)
    return PutAnswer(added=added, changed=changed)


@router.get("/bundle", dependencies=[_needs("read")])
async def bundle(request: Request, service: Service) -> Response:
    """The manifest for devices; its ETag is the bundle's SHA-256, and If-None-Match is answered by 304."""
    return _file(request, service, "manifest.json")


@router.get("/bundle/{name}", dependencies=[_needs("read")])
async def bundle_file(name: str, request: Request, service: Service) -> Response:
    """One file of the bundle, by its name in the manifest."""
    return _file(request, service, name)


def _file(request: Request, service: RecommendationService, name: str) -> Response:
    served = service.holder.current
    if name not in served.files:
        raise HTTPException(404, f"the bundle has no such file; it has {', '.join(served.files)}")
    tag = f'"{served.sha256}"'
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    asked = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    if tag in asked or "*" in asked:
        return Response(status_code=304, headers=headers)
    kind = _TYPES.get(Path(name).suffix, "application/octet-stream")
    return Response(served.files[name], media_type=kind, headers=headers)


@router.post("/admin/reload", dependencies=[_needs("admin")])
async def reload(service: Service) -> dict[str, Any]:
    """Look at the bundle's folder now; other workers look within seconds by themselves."""
    if not await service.run(service.holder.reload):
        raise HTTPException(409, f"the bundle was refused and the old one stays: {service.holder.refused}")
    service.metrics.observe_bundle(service.holder.current, "")
    return {"sha256": service.holder.current.sha256}


@router.get("/runs", dependencies=[_needs("read")])
async def runs(service: Service) -> dict[str, Any]:
    """The run directories under --runs."""
    return {"runs": await service.run(list_runs, Path(service.settings.runs)) if service.settings.runs else []}


@router.get("/runs/{name}", dependencies=[_needs("read")])
async def run(name: str, service: Service) -> dict[str, Any]:
    """Results, rounds so far, audit and ledger of one run."""
    found = None
    if service.settings.runs:
        found = await service.run(describe_run, Path(service.settings.runs), name)
    if found is None:
        raise HTTPException(404, "there is no such run")
    return found


@router.get("/federations", dependencies=[_needs("read")])
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
    }


@open_router.get("/metrics")
async def metrics(service: Service) -> Response:
    """For Prometheus."""
    return Response(await service.run(service.metrics.text), media_type="text/plain; version=0.0.4; charset=utf-8")
