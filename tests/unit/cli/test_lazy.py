"""`bascule --help` is fast because it imports next to nothing; the clock is not asked."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest

from bascule.cli.lazy import LazyGroup, Place
from bascule.cli.main import COMMANDS, bascule

HEAVY = {"rich", "aiohttp", "fastapi", "pydantic", "pyroute2", "qemu", "uvicorn", "starlette", "structlog"}
NOT_NEEDED_EITHER = {"http", "asyncio", "json", "sqlite3", "ssl", "email", "tempfile"}


def imported_by(*arguments: str) -> set[str]:
    code = f"import sys; from bascule.cli.main import main; sys.exit(main({list(arguments)!r}))"
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    return {match[1] for match in re.finditer(r"^import time:.*\|\s*(\S+)$", run.stderr, re.MULTILINE)}


def test_help_imports_neither_libraries_nor_commands() -> None:
    modules = imported_by("--help")

    assert "click" in modules
    assert not (HEAVY | NOT_NEEDED_EITHER) & {module.partition(".")[0] for module in modules}
    assert not {place.module for place in COMMANDS.values()} & modules


@pytest.mark.parametrize("name", ["migrate", "vm", "moves", "agent"])
def test_help_of_a_command_imports_no_libraries(name: str) -> None:
    modules = imported_by(name, "--help")

    assert not HEAVY & {module.partition(".")[0] for module in modules}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_is_there_with_help_and_examples(name: str) -> None:
    command = bascule.get_command(click.Context(bascule), name)

    assert command is not None
    for each in command.commands.values() if isinstance(command, click.Group) else [command]:
        assert each.help, each.name
        assert "Examples:" in each.help, each.name


def test_a_place_without_a_command_is_a_mistake_of_ours() -> None:
    group = LazyGroup("x", places={"wrong": Place("bascule.cli.options", "DEFAULT_SOCKET", "")})

    assert group.get_command(click.Context(group), "absent") is None
    with pytest.raises(TypeError, match="no click command"):
        group.get_command(click.Context(group), "wrong")
