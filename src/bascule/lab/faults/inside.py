"""Doing something inside a network namespace, by a thread that lives there as long as it takes."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from bascule.errors import Failed
from bascule.lab.namespaces import DIRECTORY

_CLONE_NEWNET = 0x40000000
T = TypeVar("T")


def enter(namespace: str) -> None:
    """Move the calling thread, and it alone, into a namespace for good. A socket stays in the one it was made in."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(DIRECTORY / namespace, os.O_RDONLY)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter namespace {namespace}")
    finally:
        os.close(descriptor)


def inside(namespace: str, work: Callable[[], T]) -> T:
    """Return what `work` returns inside the namespace; its error is raised here."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            enter(namespace)
            results.append(work())
        except BaseException as error:  # raised again below
            errors.append(error)

    thread = threading.Thread(target=run, name=f"inside {namespace}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def fetch_json(namespace: str, address: str, path: str, *, timeout_s: float = 3.0) -> Any:
    """GET a page of a guest from inside a namespace. Raises `Failed`."""

    def get() -> Any:
        connection = http.client.HTTPConnection(address, timeout=timeout_s)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    try:
        return inside(namespace, get)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Failed(f"http://{address}{path} does not answer: {error}") from error
