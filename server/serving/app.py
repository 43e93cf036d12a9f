"""The web application: routes, page, and every failure as one sentence of JSON; wiring only."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.staticfiles import StaticFiles

from hushrec.common.errors import BundleError, HushrecError
from hushrec.server.serving.gate import FAILED, Gate
from hushrec.server.serving.openapi_page import openapi_page
from hushrec.server.serving.routes import open_router, router
from hushrec.server.serving.service import RecommendationService

PAGE = Path(__file__).parent / "page"


def build_app(service: RecommendationService, **limits: Any) -> Gate:
    """The ASGI application.

    Args:
        limits: of `Gate`, where a test wants others.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    app = described_app(lifespan)
    app.state.service = service
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(HushrecError, _asked_wrongly)
    app.add_exception_handler(TimeoutError, _too_slow)
    app.add_exception_handler(Exception, _failed)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(openapi_page(app.openapi()))

    if (PAGE / "index.html").exists():
        mimetypes.add_type("text/javascript", ".js")
        mimetypes.add_type("image/svg+xml", ".svg")
        # Not a mount, which would answer for every address, so also for a wrong method of an address of the API.
        app.router.default = StaticFiles(directory=PAGE, html=True, follow_symlink=True)
    return Gate(app, service.tokens, service.metrics, **limits)


def described_app(lifespan: Any = None) -> FastAPI:
    """The routes and their description, with nothing behind them yet."""
    app = FastAPI(
        title="hushrec",
        version=version("hushrec"),
        description="Recommendations with reasons, from a bundle that says what it cost in privacy. "
        "Nothing of a request is kept.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.include_router(router)
    app.include_router(open_router)
    return app


def _failure(status: int, why: str, headers: Any = None) -> Response:
    # Escaped, because what somebody sent may be no valid text at all.
    body = json.dumps({"error": why}, ensure_ascii=True).encode()
    return Response(body, status, headers=headers, media_type="application/json")


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part)[:100] for part in first["loc"])
    return _failure(422, f"{place}: {first['msg']}")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_methods(request))) or "GET, HEAD"  # else it is a file of the page
    return _failure(error.status_code, str(error.detail), headers)


def _methods(request: Request) -> set[str]:
    """Of all routes with this address; Starlette names those of the first alone."""
    routes = [one for one in (*router.routes, *open_router.routes) if one.matches(request.scope)[0] is not Match.NONE]
    return {method for route in routes for method in getattr(route, "methods", ())}


async def _too_slow(_request: Request, _error: Exception) -> Response:
    return _failure(503, "the service has too much to do; ask again", {"retry-after": "5"})


async def _failed(_request: Request, _error: Exception) -> Response:
    return _failure(500, FAILED)  # the gate gets the error too, and logs it


async def _asked_wrongly(_request: Request, error: Exception) -> Response:
    return _failure(409 if isinstance(error, BundleError) else 422, str(error))
