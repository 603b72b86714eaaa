"""A filter in the kernel for a socket that is shown more than it asked for: classic BPF, a few instructions.

Without it, a raw socket sees the answers to every other program on this machine, and each of them would wake the
probe.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence

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
_RETURN = 0x06
_LOADS = {1: _LOAD_BYTE, 2: _LOAD_HALF, 4: _LOAD_WORD}
_LOADS_BEHIND_X = {1: _LOAD_BYTE_BEHIND_X, 2: _LOAD_HALF_BEHIND_X}

Field = tuple[int, int, int]
"""(offset, bytes, value): what a packet must hold there."""


def attach(sock: socket.socket, fields: Sequence[Field], *, behind_ip_header: bool = False) -> None:
    """Let only packets through that hold all the fields; offsets may count from the end of an IPv4 header."""
    program = program_of(fields, behind_ip_header=behind_ip_header)
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
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
