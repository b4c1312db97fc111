"""From an MQTT message to the S3 object it becomes: pure functions, plain values."""

import hashlib
import re
import struct
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple
from urllib.parse import quote

MAX_PIXELS = 89_478_485  # Pillow's MAX_IMAGE_PIXELS: 1/4 GB of RGB, the usual bound for a decompression bomb
MAX_KEY = 512  # bytes for the topic's part of a key; S3 takes 1024 for all of it
MAX_METADATA = 2_000  # bytes for all names and values together; S3 takes 2 KB
ID = re.compile(r"[0-9a-f]{16}")
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"  # the last chunk, empty, with its CRC
CONTRACT = (
    "id",
    "camera",
    "captured_at",
    "box",
    "frame_size",
    "score",
    "sharpness",
    "track",
    "seq",
    "schema",
)


class Object(NamedTuple):
    """What is put into the bucket."""

    key: str
    content_type: str
    metadata: dict[str, str]


def stored_object(topic: str, properties: Iterable[tuple[str, str]], payload: bytes) -> Object:
    """Say where a message is stored and with what; the same message always gives the same object.

    `properties` are the MQTT user properties. Raises ValueError when the payload is no JPEG or PNG image.
    """
    extension = image_format(payload)
    known = dict(properties)
    try:
        captured_at = datetime.strptime(known["captured_at"], "%Y-%m-%dT%H:%M:%S.%fZ")
        name = f"{captured_at:%Y/%m/%d/%H%M%S}.{captured_at.microsecond // 1000:03d}Z-{valid_id(known)}"
    except (KeyError, ValueError):
        name = f"undated/{digest(payload)[:16]}"
    content_type = {"jpg": "image/jpeg", "png": "image/png"}[extension]
    return Object(f"{topic_path('faces', topic)}/{name}.{extension}", content_type, metadata(known))


def rejected_object(topic: str, properties: Iterable[tuple[str, str]], payload: bytes, reason: str) -> Object:
    """Say where a message is kept that is no image, with the reason in its metadata."""
    known = {**dict(properties), "reason": reason, "topic": topic}
    # octet-stream: what a stranger sent is never shown by a browser
    return Object(
        f"{topic_path('rejected', topic)}/{digest(payload)}", "application/octet-stream", metadata(known)
    )


def valid_id(properties: dict[str, str]) -> str:
    """Give the id of a face, 16 hex digits; raises ValueError on anything else."""
    if not ID.fullmatch(properties.get("id", "")):
        raise ValueError("no id")
    return properties["id"]


def topic_path(prefix: str, topic: str) -> str:
    """Give `prefix` and the topic's levels below its first, escaped so that no level can name another place.

    The escaping is one to one. A path too long for a key keeps the device and gives the rest as its SHA-256.
    """
    levels = [escaped(level) for level in topic.split("/")[1:]] or [escaped("")]
    path = "/".join([prefix, *levels])
    if len(path) > MAX_KEY:
        path = f"{prefix}/{levels[0][:200]}/%{digest(topic.encode())}"
    return path


def escaped(level: str) -> str:
    """Percent-encode one topic level; empty and dots-only levels, which a path would swallow, too."""
    if not level.strip("."):
        return "%2E" * len(level) or "%"
    return quote(level, safe="")


def metadata(properties: dict[str, str]) -> dict[str, str]:
    """Give the user properties as S3 metadata: ASCII, and within S3's 2 KB, the contract's names first."""
    kept: dict[str, str] = {}
    room = MAX_METADATA
    for name in sorted(properties, key=lambda name: (name != "reason", name not in CONTRACT, name)):
        # a header may hold neither controls nor spaces at its ends
        value = quote(properties[name], safe=" !#$&'()*+,/:;=?@[]^`{|}<>").strip()
        if re.fullmatch(r"[A-Za-z0-9_-]+", name) and len(name) + len(value) <= room:
            kept.setdefault(name.lower(), value)
            room -= len(name) + len(value)
    return kept


def digest(data: bytes) -> str:
    """Give the SHA-256 as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def image_format(payload: bytes) -> str:
    """Give `jpg` or `png`; raises ValueError, saying why, for what is no whole image of bearable size."""
    if payload.startswith(b"\xff\xd8\xff"):
        extension, size, whole = "jpg", jpeg_size(payload), payload.rstrip(b"\0\r\n").endswith(b"\xff\xd9")
    elif payload.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR") and len(payload) >= 24:
        extension, size, whole = "png", struct.unpack_from(">II", payload, 16), payload.endswith(PNG_END)
    else:
        raise ValueError(
            f"no JPEG or PNG image: {len(payload)} bytes that begin with {payload[:4].hex() or 'nothing'}"
        )
    if not whole:
        raise ValueError(f"cut short: a {extension} image without its end")
    width, height = size
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels: not from 1 to {MAX_PIXELS}")
    return extension


def jpeg_size(payload: bytes) -> tuple[int, int]:
    """Give width and height in pixels from the frame header (ITU T.81, B.2.2); raises ValueError without."""
    at = 2
    while at + 9 <= len(payload) and payload[at] == 0xFF:
        marker = payload[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", payload, at + 5)
            return width, height
        # fill bytes (FF) and markers without a length
        at += (
            1
            if marker == 0xFF
            else 2
            if marker in (0x01, *range(0xD0, 0xD8))
            else 2 + int.from_bytes(payload[at + 2 : at + 4], "big")
        )
    raise ValueError("a jpg image without a frame header")
