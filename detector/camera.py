"""Read frames from whatever `CAMERA` names: a live camera, a video file or a folder of images."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .files import open_files
from .live import URLS, CameraError, Frame, Live, Log
from .reasons import redact

__all__ = ["Camera", "CameraError", "Frame", "open_camera"]


@dataclass
class Camera:
    """Frames to iterate over; None comes, at least once a second, while a live camera has none."""

    images: Iterator[Frame | None]
    live: bool = False
    state: Mapping[str, str] = field(default_factory=dict)  # camera (up, lost), camera_since and camera_reason
    close: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[Frame | None]:
        return self.images


def open_camera(source: str, log: Log, **options: Any) -> Camera:
    """Open what `source` names: a number, a device, a URL, a video file or a folder of images.

    The `options` are those of `Live`, which may come later, unless it is a device that does not exist.
    CameraError if there is nothing to read, and from the iterator when a live camera is given up.
    """
    source = re.sub(r"^\w+://", lambda scheme: scheme[0].lower(), source.strip())
    shown = redact(source)
    if source.isdecimal() and sys.platform == "linux":
        source = f"/dev/video{source}"
    path = Path(source)
    if source.startswith(URLS) or source.isdecimal() or path.is_char_device():
        live = Live(source, log, **options)
        return Camera(live.images(), True, live.state, live.close)
    if path.is_dir() or path.is_file():
        return Camera(open_files(path, log))
    remedy = "give a device of `ls /dev/video*` (on K3s to the pod, too), a URL, a video file or a folder of images"
    raise CameraError(f"CAMERA={shown}: there is no {redact(source)}; {remedy}")
