"""Read frames from whatever `CAMERA` names: a live camera, a video file or a folder of images."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2

from .live import URLS, CameraError, Frame, Live, Log

__all__ = ["Camera", "CameraError", "Frame", "open_camera"]

IMAGES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


@dataclass
class Camera:
    """Frames to iterate over; None comes, at least once a second, while a live camera has none."""

    images: Iterator[Frame | None]
    live: bool
    frames: int | None = None  # how many there will be, if known
    close: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[Frame | None]:
        return self.images


def open_video(path: Path, log: Log) -> Camera:
    """Every frame of a video file, in order."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    ok, first = capture.read()
    if not ok:
        size = path.stat().st_size
        raise CameraError(f"CAMERA={path}: no video that can be read ({size} bytes); is the file whole?")
    count = max(round(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
    fps = capture.get(cv2.CAP_PROP_FPS)
    fps = fps if math.isfinite(fps) and fps > 0 else 25.0  # some containers do not tell

    def images() -> Iterator[Frame]:
        start, index, ok, image = time.time(), 0, True, first
        while ok:
            yield Frame(image, start + index / fps)
            index += 1
            ok, image = capture.read()
        if index < count:
            log("video ended early", camera=path, frames=index, expected=count)

    return Camera(images(), live=False, frames=count or None, close=capture.release)


def open_folder(folder: Path, log: Log) -> Camera:
    """Every image in a folder, in the order of the names, one second apart; other files are left alone."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES)
    except OSError as error:
        raise CameraError(f"CAMERA={folder}: {error.strerror}; let this user read the folder") from error
    if not any(cv2.imread(str(path)) is not None for path in paths):
        raise CameraError(f"CAMERA={folder}: no readable image in this folder ({' '.join(sorted(IMAGES))})")

    def images() -> Iterator[Frame]:
        start = time.time()
        for index, path in enumerate(paths):
            image = cv2.imread(str(path))
            if image is None:
                log("image skipped", file=path, reason="cannot be read")
            else:
                yield Frame(image, start + index)

    return Camera(images(), live=False, frames=len(paths))


def open_camera(source: str, log: Log, stall: float = 4, hang: float = 60, retry: float = 1) -> Camera:
    """Open what `source` names: a number, a device, a URL, a video file or a folder of images.

    A live camera may come later, unless it is a device that does not exist. It is lost `stall` s after the
    last frame, opened again after `retry` s and ever longer, and given up when OpenCV blocks for `hang` s.
    CameraError if there is nothing to read, and from the iterator when a live camera is given up.
    """
    path = Path(f"/dev/video{source}" if source.isdecimal() else source)
    by_number_only = source.isdecimal() and sys.platform != "linux"
    if source.startswith(URLS) or path.is_char_device() or by_number_only:
        live = Live(source, log, stall, hang, retry)
        return Camera(live.images(), live=True, close=live.close)
    if path.is_dir():
        return open_folder(path, log)
    if path.is_file():
        return open_video(path, log)
    if path.is_relative_to("/dev"):
        remedy = "see `ls /dev/video*`, and on K3s give the pod the device"
    else:
        remedy = "give a number, a device, a URL, a video file or a folder of images"
    raise CameraError(f"CAMERA={source}: there is no {path}; {remedy}")
