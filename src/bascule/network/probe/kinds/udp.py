"""UDP echo: a numbered datagram out, the same one back."""

from __future__ import annotations

import socket

from bascule.network.probe.kinds.numbered import NumberedEcho
from bascule.network.probe.target import Target


class UdpEcho(NumberedEcho):
    """Asks a UDP echo service."""

    def _open(self, target: Target) -> socket.socket:
        return socket.socket(target.family, socket.SOCK_DGRAM)

    def _message(self, number: int, payload: bytes) -> bytes:  # noqa: ARG002 - the payload holds it
        return payload

    def _payload(self, message: bytes) -> bytes:
        return message
