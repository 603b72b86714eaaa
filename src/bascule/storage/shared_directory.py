"""A directory that several hosts see: how much room it has, and proof that it is the same one.

To prove it, one host writes a token, a file whose content nobody can guess, and tells the other host its name;
what the other reads under that name must be the content. Two directories that merely have the same path do not pass.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2s
from pathlib import Path

from bascule.errors import Failed, Refused

_TOKEN_NAME = re.compile(r"\.bascule-token-[0-9a-f]{32}", re.ASCII)
_VALUE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Token:
    """A file in a shared directory: its name and its content."""

    name: str
    value: str


def free_bytes(directory: Path) -> int:
    """How many bytes an unprivileged user may still write there, as the file system tells; quotas are not counted."""
    usage = os.statvfs(directory)
    return usage.f_bavail * usage.f_frsize


def token_name(of: str) -> str:
    """The name of the token of a move, so that one whose writer was killed is found and removed. It proves nothing."""
    return f".bascule-token-{blake2s(of.encode(), digest_size=16).hexdigest()}"


def write_token(directory: Path, of: str | None = None) -> Token:
    """Write a new token into `directory`, that of the move `of` if given; remove it with `remove_token`.

    Raises `Refused` when that is not possible.
    """
    token = Token(token_name(of or secrets.token_hex()), secrets.token_hex(_VALUE_BYTES // 2))
    path = directory / token.name
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, token.value.encode())
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(file)  # on NFS, this is when others see the content
    except OSError as error:
        raise Refused(f"cannot write to {directory}: {error.strerror}") from error
    return token


def read_token(directory: Path, name: str) -> str | None:
    """The content of the token `name` in `directory`, or None when it is not there: this is another directory.

    `name` may come from another host: what is no token's name, or no plain file, is Refused and never read.
    """
    if not _TOKEN_NAME.fullmatch(name):
        raise Refused(f"{name!r} is not the name of a token")
    try:
        file = os.open(directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refused(f"cannot read {directory / name}: {error.strerror}") from error
    try:
        return os.read(file, _VALUE_BYTES).decode("ascii", errors="replace")
    except OSError as error:
        raise Refused(f"cannot read {directory / name}: {error.strerror}") from error
    finally:
        os.close(file)


def remove_token(directory: Path, token: Token) -> None:
    """Remove a token; that it is gone is fine. Raises `Failed`."""
    try:
        with suppress(FileNotFoundError):
            (directory / token.name).unlink()
    except OSError as error:
        raise Failed(f"cannot remove {directory / token.name}: {error.strerror}") from error
