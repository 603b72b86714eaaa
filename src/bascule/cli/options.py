"""Options and parameter types that several commands share. Imports nothing heavier than click."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

DEFAULT_SOCKET = "/run/bascule/agent.sock"
_SOCKET_KEY = "bascule.socket"
_SECONDS_OF_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

F = TypeVar("F", bound=Callable[..., Any])


class Duration(click.ParamType[float]):
    """A length of time with its unit, as in `50ms`, `1.5s`, `10m` or `2h`; converts to seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return `value` in seconds; numbers (an option's default) are seconds already."""
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", str(value))
        if match is None:
            self.fail(f"{value!r} is no duration: give a number and ms, s, m or h, as in 50ms or 10m", param, ctx)
        seconds = float(match[1]) * _SECONDS_OF_UNIT[match[2]]
        if seconds <= 0:
            self.fail(f"{value!r} must be longer than nothing", param, ctx)
        return seconds


DURATION = Duration()


def socket_option(command: F) -> F:
    """Add `--socket PATH`, good before and after the command's name; read it with `agent_socket`."""

    def remember(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.meta[_SOCKET_KEY] = value

    return click.option(
        "--socket",
        metavar="PATH",
        expose_value=False,
        callback=remember,
        help=f"The agent's socket.  [env: BASCULE_SOCKET; default: {DEFAULT_SOCKET}]",
    )(command)


def agent_socket(ctx: click.Context | None = None) -> str:
    """Return the socket's path: from the command line, else the environment, else the default."""
    ctx = ctx or click.get_current_context()
    path: str = ctx.meta.get(_SOCKET_KEY) or os.environ.get("BASCULE_SOCKET") or DEFAULT_SOCKET
    return path


def json_option(command: F) -> F:
    """Add `--json`, passed to the command as `as_json`. Errors follow it by themselves (see `main`)."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON; an error becomes a JSON object on stderr."
    )(command)
