"""Read frames from whatever `CAMERA` names: a live camera, a video file or a folder of images."""

import math
import re
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .live import URLS, CameraError, Frame, Live, Log
from .reasons import redact

IMAGES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
UNREADABLE = 1000  # failed reads in a row; then there is no more
EPOCH_OF_MP4 = 2082844800  # s from 1904 to 1970


@dataclass
class Camera:
    """Frames to iterate over; None comes, at least once a second, while a live camera has none."""

    images: Iterator[Frame | None]
    live: bool = False
    state: Mapping[str, str] = field(default_factory=dict)  # camera (up, lost), camera_since and camera_reason
    close: Callable[[], None] = lambda: None
    open: Callable[[], None] = lambda: None  # again, after close

    def __iter__(self) -> Iterator[Frame | None]:
        return self.images


def created(path: Path) -> int:
    """When an MP4 or MOV says that it was made, s since the epoch; 0 where it does not say."""
    size = 16
    with path.open("rb") as file:
        while size >= 8 and len(box := file.read(16)) == 16:
            size, kind, inner = struct.unpack(">I4s4x4s", box)
            if kind + inner == b"moovmvhd":
                header = file.read(12)  # version, flags, time
                return max(int.from_bytes(header[4 : 12 if header[0] else 8], "big") - EPOCH_OF_MP4, 0)
            if size == 1:
                size = int.from_bytes(box[8:], "big")
            file.seek(size - 16, 1)
    return 0


def video_frames(path: Path, log: Log) -> Iterator[Frame]:
    """Every frame that can be read, in order; what cannot be read is skipped, and said."""
    # FFmpeg takes a relative name with a colon for a protocol
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    fps, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    fps = fps if math.isfinite(fps) and fps > 0 else 25.0  # some containers do not tell
    length = max(count / fps, 0)
    made = created(path)
    if not (made or length):  # a browser's webm does not tell its length, and must not end in the future
        while capture.grab():
            length = max(length, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        capture.open(str(path.absolute()), cv2.CAP_FFMPEG)
    start = made or path.stat().st_mtime - length
    log("video", file=path, start=f"{start:.0f}", by="creation time" if made else "file's time less its length")
    at, first, skipped, failed = 0.0, True, 0, 0
    while failed < UNREADABLE:
        ok, image = capture.read()
        if not ok:
            failed += 1
            continue
        position = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if first and path.suffix.lower() in {".mkv", ".webm"}:
            # Their length counts from the file's zero, positions from the first time stamp
            zero = max(capture.get(cv2.CAP_PROP_PTS) / fps - position, 0)
            start, length = start + zero, length - zero
        at = position if first or position > at else at + 1 / fps
        first, skipped, failed = False, skipped + failed, 0
        yield Frame(image, start + at)
    if skipped:
        log("frames skipped", camera=path, frames=skipped, reason="cannot be read")
    if at + 1 / fps < length - 1:
        log("video ended early", camera=path, seconds=round(at, 1), expected=round(length, 1))


def folder_frames(folder: Path, log: Log) -> Iterator[Frame]:
    """Every image in a folder by name, one second apart up to now; other files are left alone."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES)
    start = time.time() - len(paths)
    for index, path in enumerate(paths):
        image = None
        with suppress(cv2.error, OSError):  # empty, or more pixels than OpenCV's limit; `imread` cannot turn a TIFF
            image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            log("image skipped", file=path, reason="cannot be read")
        else:
            yield Frame(image, start + index)


def open_camera(source: str, log: Log, **options: Any) -> Camera:
    """Open what `source` names: a number, a device, a URL, a video file or a folder of images.

    The `options` are those of `Live`, which may come later, unless it is a device that does not exist.
    CameraError if there is nothing to read, and from the iterator when a live camera is given up.
    """
    source = re.sub(r"^\w+://", lambda scheme: scheme[0].lower(), source.strip())
    shown = f"CAMERA={redact(source)}"
    if source.isdecimal() and sys.platform == "linux":
        source = f"/dev/video{source}"
    path = Path(source)
    if source.startswith(URLS) or source.isdecimal() or path.is_char_device():
        live = Live(source, log, **options)
        return Camera(live.images(), True, live.state, live.close, live.start)
    if path.is_dir():
        frames, wanted = folder_frames(path, log), f"readable image in this folder ({' '.join(sorted(IMAGES))})"
    elif path.is_file():
        frames, wanted = video_frames(path, log), f"video that can be read ({path.stat().st_size} bytes); is it whole?"
    else:
        remedy = "give a device of `ls /dev/video*` (on K3s to the pod, too), a URL, a video file or a folder of images"
        raise CameraError(f"{shown}: there is no {redact(source)}; {remedy}")
    try:
        return Camera(chain([next(frames)], frames))
    except StopIteration:
        raise CameraError(f"{shown}: no {wanted}") from None
    except OSError as error:
        raise CameraError(f"{shown}: {error.strerror}; let this user read it") from error
