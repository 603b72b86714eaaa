"""A filter in the kernel for a socket that is shown more than it asked for: classic BPF, a few instructions.

Without it, a raw socket sees the answers to every other program on this machine, and each of them would wake the
probe.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_ACCEPT_BYTES = 0x40000
# linux/bpf_common.h
_LOAD_HALF = 0x28  # BPF_LD | BPF_H | BPF_ABS
_LOAD_WORD = 0x20
_LOAD_BYTE = 0x30
_LOAD_HALF_BEHIND_X = 0x48  # BPF_LD | BPF_H | BPF_IND
_LOAD_BYTE_BEHIND_X = 0x50
_X_IS_IP_HEADER_BYTES = 0xB1  # BPF_LDX | BPF_B | BPF_MSH: four times the low half of the byte at k
_JUMP_IF_EQUAL = 0x15
_JUMP_IF_EQUAL_TO_X = 0x1D
_X_IS_A = 0x07
_RETURN = 0x06
_LOADS = {1: _LOAD_BYTE, 2: _LOAD_HALF, 4: _LOAD_WORD}
_LOADS_BEHIND_X = {1: _LOAD_BYTE_BEHIND_X, 2: _LOAD_HALF_BEHIND_X}

Field = tuple[int, int, int]
"""(offset, bytes, value): what a packet must hold there."""


@dataclass(frozen=True, slots=True)
class Same:
    """What a packet must hold too: the same four bytes at two offsets."""

    first: int
    second: int


def attach(sock: socket.socket, fields: Sequence[Field], *, behind_ip_header: bool = False) -> None:
    """Let only packets through that hold all the fields; offsets may count from the end of an IPv4 header."""
    _attach(sock, program_of(fields, behind_ip_header=behind_ip_header))


def attach_any(sock: socket.socket, alternatives: Sequence[Sequence[Field | Same]]) -> None:
    """Let only packets through that hold all the fields of one of the alternatives."""
    _attach(sock, program_of_any(alternatives))


def _attach(sock: socket.socket, program: bytes) -> None:
    instructions = ctypes.create_string_buffer(program)
    count = len(program) // 8
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", count, ctypes.addressof(instructions)))


def program_of(fields: Sequence[Field], *, behind_ip_header: bool = False) -> bytes:
    """The instructions, 8 bytes each."""
    loads = _LOADS_BEHIND_X if behind_ip_header else _LOADS
    lines = [(_X_IS_IP_HEADER_BYTES, 0, 0, 0)] if behind_ip_header else []
    for number, (offset, size, value) in enumerate(fields):
        to_refusal = 2 * (len(fields) - number - 1) + 1
        lines += [(loads[size], 0, 0, offset), (_JUMP_IF_EQUAL, 0, to_refusal, value)]
    lines += [(_RETURN, 0, 0, _ACCEPT_BYTES), (_RETURN, 0, 0, 0)]
    return _packed(lines)


def program_of_any(alternatives: Sequence[Sequence[Field | Same]]) -> bytes:
    """The instructions, 8 bytes each: an alternative whose field does not hold is left for the next one."""
    lines = []
    for fields in alternatives:
        loads = [_load(field) for field in fields]
        left = sum(len(load) + 1 for load in loads) + 1
        for field, load in zip(fields, loads, strict=True):
            left -= len(load) + 1
            equal = (
                (_JUMP_IF_EQUAL_TO_X, 0, left, 0) if isinstance(field, Same) else (_JUMP_IF_EQUAL, 0, left, field[2])
            )
            lines += [*load, equal]
        lines.append((_RETURN, 0, 0, _ACCEPT_BYTES))
    return _packed([*lines, (_RETURN, 0, 0, 0)])


def _load(field: Field | Same) -> list[tuple[int, int, int, int]]:
    if isinstance(field, Same):
        return [(_LOAD_WORD, 0, 0, field.first), (_X_IS_A, 0, 0, 0), (_LOAD_WORD, 0, 0, field.second)]
    return [(_LOADS[field[1]], 0, 0, field[0])]


def _packed(lines: Sequence[tuple[int, int, int, int]]) -> bytes:
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
