"""Errors as the HTTP API tells them: one JSON object, the same for both APIs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from bascule.errors import BasculeError, Finding, Refused

STATUS = {"refused": 409, "failed": 500, "unknown": 503}

Handler = Callable[[Request, Any], Awaitable[JSONResponse]]


class NotFound(Refused):
    """What was asked for does not exist here."""


def body_of(error: BasculeError) -> dict[str, Any]:
    """Return the error as JSON."""
    findings = [finding_to_dict(finding) for finding in error.findings]
    return {
        "error": {"kind": error.kind, "message": error.message, "remedy": error.remedy, "findings": findings},
    }


def finding_to_dict(finding: Finding) -> dict[str, str]:
    """Return a finding as JSON."""
    return {"subject": finding.subject, "problem": finding.problem, "remedy": finding.remedy}


def finding_from_dict(data: dict[str, str]) -> Finding:
    """Read what `finding_to_dict` made."""
    return Finding(data["subject"], data["problem"], data.get("remedy", ""))


async def _known(_request: Request, error: BasculeError) -> JSONResponse:
    status = 404 if isinstance(error, NotFound) else STATUS[error.kind]
    return JSONResponse(body_of(error), status)


async def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
    findings = [Finding(".".join(str(part) for part in e["loc"]), e["msg"]) for e in error.errors()]
    return JSONResponse(body_of(Refused.from_findings("understand the request", findings)), 422)


async def _http(_request: Request, error: HTTPException) -> JSONResponse:
    return JSONResponse(body_of(Refused(str(error.detail))), error.status_code)


async def _surprise(request: Request, error: Exception) -> JSONResponse:
    structlog.get_logger().exception("request failed", path=request.url.path, exc_info=error)
    surprised = BasculeError(
        f"the agent met an error that it did not expect: {type(error).__name__}: {error}",
        "this is a fault in Bascule; the agent's log says more",
    )
    return JSONResponse(body_of(surprised), 500)


def install(app: FastAPI) -> None:
    """Make `app` answer errors as this page says."""
    app.add_exception_handler(BasculeError, _known)  # type: ignore[arg-type]  # starlette types handlers too widely
    app.add_exception_handler(RequestValidationError, _invalid)  # type: ignore[arg-type]  # as above
    app.add_exception_handler(HTTPException, _http)  # type: ignore[arg-type]  # as above
    app.add_exception_handler(Exception, _surprise)
