"""From an MQTT message to the S3 object it becomes: pure functions, plain values."""

import re
import struct
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from hashlib import sha256
from typing import TypedDict
from urllib.parse import quote

MAX_PIXELS = 89_478_485  # Pillow's MAX_IMAGE_PIXELS: 1/4 GB of RGB, the usual bound for a decompression bomb
MAX_KEY = 512  # bytes for the topic's part of a key; S3 takes 1024 for all of it
MAX_SEGMENT = 255  # bytes between two slashes: a store on a file system makes a file or a folder of each
MAX_VALUE = 160  # bytes of a metadata value; S3 takes 2 KB for all names and values, and there may be 12
CONTRACT = ("id", "camera", "captured_at", "box", "frame_size", "score", "sharpness", "track", "seq", "schema")
# RFC 3339, 5.6, in capitals: any fraction or none, any offset
TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # ITU T.81, table B.1
# Where the width begins, bits from there to the height, bits of each, what is added to both (RFC 9649, 2.5)
WEBP_SIZES = {b"VP8 ": (26, 16, 14, 0), b"VP8L": (21, 14, 14, 1), b"VP8X": (24, 24, 24, 1)}


class Object(TypedDict, total=False):
    """What a message says of the PUT that stores it, by S3's own names."""

    Key: str
    ContentType: str
    Metadata: dict[str, str]
    IfNoneMatch: str  # "*" where the key names the bytes: what lies there keeps the time that it first had


def stored_object(topic: str, properties: Mapping[str, str], payload: bytes) -> Object:
    """Say where an image is stored and with what; the same message always gives the same; ValueError for none."""
    extension, _, _ = image_format(payload)
    known = Object(ContentType=f"image/{extension.replace('jpg', 'jpeg')}", Metadata=metadata(properties, CONTRACT))
    try:
        name = f"{time_path(properties['captured_at'])}-{valid_id(properties)}"
    except (KeyError, ValueError, OverflowError):
        name = f"undated/{sha256(payload).hexdigest()[:16]}"
        known["IfNoneMatch"] = "*"
    known["Key"] = f"{topic_path('faces', topic)}/{name}.{extension}"
    return known


def rejected_object(topic: str, properties: Mapping[str, str], payload: bytes, reason: str) -> Object:
    """Say where a message is kept that cannot be a face, with the reason in its metadata."""
    known = metadata({**properties, "reason": reason, "topic": topic}, [*CONTRACT, "reason", "topic"])
    key = f"{topic_path('rejected', topic)}/{sha256(payload).hexdigest()}"
    # octet-stream: what a stranger sent is never shown by a browser
    return Object(Key=key, ContentType="application/octet-stream", Metadata=known, IfNoneMatch="*")


def time_path(rfc3339: str) -> str:
    """Give `2026/11/22/102030.456Z`, in UTC; raises ValueError or OverflowError for what is no time."""
    found = TIME.fullmatch(rfc3339.upper().replace(" ", "T"))
    if not found:
        raise ValueError("no time of RFC 3339")
    second, fraction, offset = found.groups("")
    # datetime knows neither Z (before 3.11) nor leap seconds
    normal = f"{re.sub(':60$', ':59', second)}.{fraction[1:7]:0<6}{offset.replace('Z', '+00:00')}"
    at = datetime.fromisoformat(normal).astimezone(timezone.utc).isoformat(timespec="milliseconds")
    return f"{at[:10].replace('-', '/')}/{at[11:23].replace(':', '')}Z"


def valid_id(properties: Mapping[str, str]) -> str:
    """Give the id of a face, 16 hex digits; raises ValueError on anything else."""
    if not re.fullmatch("[0-9a-f]{16}", properties.get("id", "")):
        raise ValueError("no id")
    return properties["id"]


def topic_path(prefix: str, topic: str) -> str:
    """Give `prefix` and the topic's levels below its first, escaped one to one; too long: the device and a SHA-256."""
    levels = [escaped(level) for level in topic.split("/")[1:]] or [escaped("")]
    path = "/".join([prefix, *levels])
    if len(path) > MAX_KEY or max(map(len, levels)) > MAX_SEGMENT:
        path = f"{prefix}/{levels[0][:200]}/%{sha256(topic.encode()).hexdigest()}"
    return path


def escaped(level: str) -> str:
    """Percent-encode one topic level; empty and dots-only levels, which a path would swallow, too."""
    if not level.strip("."):
        return "%2E" * len(level) or "%"
    return quote(level, safe="")


def metadata(properties: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Give these properties as S3 metadata; with dashes, for nginx in front of a store drops underscores."""
    values = {name.replace("_", "-"): header(properties.get(name, "")) for name in names}
    return {name: value for name, value in values.items() if value}


def header(value: str) -> str:
    """Percent-encode what a header may not hold, cut between characters at MAX_VALUE bytes."""
    value = value[:MAX_VALUE].strip()
    while len(encoded := quote(value, safe=" !#$&'()*+,/:;=?@[]^`{|}<>")) > MAX_VALUE:
        value = value[:-1].rstrip()
    return encoded


def image_format(payload: bytes) -> tuple[str, int, int]:
    """Give `jpg`, `png` or `webp`, width and height in px; raises ValueError, saying why, for none or too large."""
    if payload.startswith(b"\xff\xd8\xff"):
        extension, (width, height) = "jpg", jpeg_size(payload)
    elif payload.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"):
        extension, width, height = "png", int.from_bytes(payload[16:20], "big"), int.from_bytes(payload[20:24], "big")
    elif payload.startswith(b"RIFF") and payload[8:12] == b"WEBP":
        at, shift, bits, more = WEBP_SIZES.get(payload[12:16], (0, 0, 0, 0))
        number, mask = int.from_bytes(payload[at : at + 6], "little"), (1 << bits) - 1
        extension, width, height = "webp", (number & mask) + more, (number >> shift & mask) + more
    else:
        raise ValueError(f"no JPEG, PNG or WebP: {len(payload)} bytes, first {payload[:4].hex() or 'none'}")
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels: not from 1 to {MAX_PIXELS}")
    return extension, width, height


def jpeg_size(payload: bytes) -> tuple[int, int]:
    """Give width and height in pixels from the frame header (ITU T.81, B.2.2), 0 and 0 without one."""
    at = 2
    while at + 9 <= len(payload) and payload[at] == 0xFF:
        marker, length, height, width = struct.unpack_from(">BHxHH", payload, at + 1)
        if marker in JPEG_FRAMES:
            return width, height
        at += 1 if marker == 0xFF else 2 + length  # FF: a fill byte
    return 0, 0
