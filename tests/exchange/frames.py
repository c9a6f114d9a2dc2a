"""WebSocket frames as a server needs them, written from RFC 6455 and not from the client's library."""

from __future__ import annotations

import asyncio
import base64
import hashlib

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_key(key: str) -> str:
    """Return Sec-WebSocket-Accept for a Sec-WebSocket-Key (section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()


def encode(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return one unmasked, final frame (section 5.2)."""
    n = len(payload)
    if n < 126:
        head = bytes([0x80 | opcode, n])
    elif n < 1 << 16:
        head = bytes([0x80 | opcode, 126]) + n.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, 127]) + n.to_bytes(8, "big")
    return head + payload


async def read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return opcode and payload of a client's frame; a client masks all of them and need not split short ones."""
    first, second = await reader.readexactly(2)
    assert first & 0x80, "the client split a message"
    assert second & 0x80, "the client did not mask a frame"
    n = second & 0x7F
    if n == 126:
        n = int.from_bytes(await reader.readexactly(2), "big")
    elif n == 127:
        n = int.from_bytes(await reader.readexactly(8), "big")
    mask = await reader.readexactly(4)
    payload = await reader.readexactly(n)
    return first & 0x0F, bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
