"""What each value of a definition may be: one rule a kind of value, with the words that say what is allowed.

The rules are strict where a value reaches a path, a socket's name or QEMU's command line: definitions also arrive
from other agents, not only from the administrator's own editor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import Any, Generic, TypeVar

from bascule.vm.definition import MAX_QUEUES, Accelerator, DiskFormat, is_versioned

T = TypeVar("T")

MIN_MEMORY_MIB = 16
MAX_MEMORY_MIB = 960 * 1024  # QEMU's CPU models have 40 address bits by default, and devices need some of that TiB
MAX_VCPUS = 255  # more need an emulated IOMMU
_MAX_PATH_BYTES = 4095  # PATH_MAX
_MAX_COMMAND_LINE_BYTES = 2047  # COMMAND_LINE_SIZE of x86 Linux, with its closing NUL

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MEMORY = re.compile(r"([0-9]{1,9})\s*([MGT]iB)", re.IGNORECASE)
_CPU = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BRIDGE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,14}")  # IFNAMSIZ is 16 with its NUL
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_MIB = {"mib": 1, "gib": 1024, "tib": 1024 * 1024}


class InvalidValueError(ValueError):
    """What is wrong with a value; `hint` is what was probably meant."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Rule(Generic[T]):
    """How to check one kind of value. `convert` returns it in its normal form or raises `InvalidValueError`."""

    allowed: str
    convert: Callable[[object], T]


def shown(value: object) -> str:
    """A value as people recognise it in their file, short and on one line."""
    if isinstance(value, str):
        text = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in value[:61])
        return f'"{text[:60]}…"' if len(value) > 60 else f'"{text}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{value:.6g}" if isinstance(value, float) else "a huge number" if abs(value) > 1e18 else str(value)
    if isinstance(value, Mapping):
        return "a table"
    return "an array" if isinstance(value, list) else "a date or time"


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`did you mean "x"?`, or nothing if no known word is near."""
    near = get_close_matches(word[:64], known, n=1)
    return f'did you mean "{near[0]}"?' if near else ""


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidValueError(f"{shown(value)} is not a string")
    if not value:
        raise InvalidValueError("is empty")
    return value


def _matching(pattern: re.Pattern[str], problem: str, value: object, *, lower: bool = False) -> str:
    text = _string(value)
    text = text.lower() if lower else text
    if not pattern.fullmatch(text):
        raise InvalidValueError(f"{shown(value)} is not {problem}")
    return text


def _one_of(choices: Sequence[str], value: object) -> Any:
    text = _string(value)
    if text not in choices:
        raise InvalidValueError(f"{shown(text)} is not known", did_you_mean(text.lower(), choices))
    return text


def _whole_number(value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidValueError(f"{shown(value)} is not a whole number")
    if not least <= value <= most:
        raise InvalidValueError(f"{shown(value)} is too {'small' if value < least else 'large'}")
    return value


def _memory_mib(value: object) -> int:
    if isinstance(value, str):
        match = _MEMORY.fullmatch(value.strip())
        if match is None:
            raise InvalidValueError(f"{shown(value)} is not an amount of memory")
        amount = int(match[1]) * _MIB[match[2].lower()]
        if not MIN_MEMORY_MIB <= amount <= MAX_MEMORY_MIB:
            raise InvalidValueError(f"{shown(value)} is too {'little' if amount < MIN_MEMORY_MIB else 'much'}")
        return amount
    return _whole_number(value, MIN_MEMORY_MIB, MAX_MEMORY_MIB)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        quoted = isinstance(value, str) and value.lower() in {"true", "false"}
        hint = "write it in lower case and without quotes" if quoted else ""
        raise InvalidValueError(f"{shown(value)} is neither true nor false", hint)
    return value


def _machine(value: object) -> str:
    text = _string(value)
    if text not in {"q35", "pc"} and not is_versioned(text):
        raise InvalidValueError(f"{shown(text)} is not known", did_you_mean(text.lower(), ("q35", "pc", "pc-q35-7.2")))
    return text


def _path(value: object) -> str:
    text = _string(value)
    if not text.startswith("/"):
        raise InvalidValueError(f"{shown(text)} is not absolute")
    if not text.isprintable():
        raise InvalidValueError(f"{shown(text)} has characters that cannot be seen")
    path = PurePosixPath("/" + text.lstrip("/"))
    if ".." in path.parts or path.name == "" or text.endswith("/"):
        raise InvalidValueError(f"{shown(text)} does not name a file" + (" without .." if ".." in path.parts else ""))
    if len(text.encode()) > _MAX_PATH_BYTES:
        raise InvalidValueError("is too long")
    return str(path)


def _kernel_command_line(value: object) -> str:
    if value == "":
        return ""
    text = _string(value)
    if not text.isprintable():
        raise InvalidValueError(f"{shown(text)} has line breaks or characters that cannot be seen")
    if len(text.encode()) > _MAX_COMMAND_LINE_BYTES:
        raise InvalidValueError("is too long")
    return text


def _uuid(value: object) -> str:
    text = _matching(_UUID, "a UUID", value, lower=True)
    if not text.strip("0-"):
        raise InvalidValueError("the UUID of only zeros means none")
    return text


def _mac(value: object) -> str:
    text = _matching(_MAC, "a MAC address", value, lower=True)
    if int(text[:2], 16) & 1:
        raise InvalidValueError(
            f"{shown(text)} is a group address", f"for one card: {int(text[:2], 16) & 0xFE:02x}{text[2:]}"
        )
    if text == "00:00:00:00:00:00":
        raise InvalidValueError("the MAC address of only zeros means none")
    return text


NAME: Rule[str] = Rule(
    "1 to 63 letters, digits, dots, dashes and underscores; first a letter or digit",
    lambda value: _matching(_NAME, "a name for a VM", value),
)
UUID: Rule[str] = Rule("a UUID such as 6f9619ff-8b86-4d01-b42d-00c04fc964ff, or leave it out", _uuid)
MEMORY_MIB: Rule[int] = Rule(
    'MiB as a number, or a string such as "512MiB" or "4GiB"; '
    f"from {MIN_MEMORY_MIB} MiB to {MAX_MEMORY_MIB // 1024} GiB",
    _memory_mib,
)
VCPUS: Rule[int] = Rule(f"a whole number from 1 to {MAX_VCPUS}", lambda value: _whole_number(value, 1, MAX_VCPUS))
QUEUES: Rule[int] = Rule(f"a whole number from 1 to {MAX_QUEUES}", lambda value: _whole_number(value, 1, MAX_QUEUES))
CPU: Rule[str] = Rule(
    "a CPU model that `qemu-system-x86_64 -cpu help` lists, without options, or host",
    lambda value: _matching(_CPU, "a CPU model", value),
)
MACHINE: Rule[str] = Rule("q35, pc, or a versioned type of these such as pc-q35-7.2 or pc-i440fx-7.2", _machine)
ACCEL: Rule[Accelerator] = Rule("auto, kvm or tcg", lambda value: _one_of(("auto", "kvm", "tcg"), value))
DISK_FORMAT: Rule[DiskFormat] = Rule("qcow2 or raw", lambda value: _one_of(("qcow2", "raw"), value))
FLAG: Rule[bool] = Rule("true or false", _flag)
PATH: Rule[str] = Rule("an absolute path", _path)
BRIDGE: Rule[str] = Rule(
    "the name of a bridge on the host: 1 to 15 letters, digits, dots, dashes and underscores",
    lambda value: _matching(_BRIDGE, "a name for a bridge", value),
)
MAC: Rule[str] = Rule("six bytes such as 52:54:00:12:34:56, the first one even; or leave it out", _mac)
KERNEL_COMMAND_LINE: Rule[str] = Rule(f"one line of at most {_MAX_COMMAND_LINE_BYTES} bytes", _kernel_command_line)
