"""Read frames from whatever `CAMERA` names: a live camera, a video file or a folder of images."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .files import open_folder, open_video
from .live import URLS, CameraError, Frame, Live, Log
from .reasons import redact

__all__ = ["Camera", "CameraError", "Frame", "open_camera"]


@dataclass
class Camera:
    """Frames to iterate over; None comes, at least once a second, while a live camera has none."""

    images: Iterator[Frame | None]
    live: bool
    close: Callable[[], None] = lambda: None
    report: Callable[[], dict[str, str]] = dict

    def __iter__(self) -> Iterator[Frame | None]:
        return self.images

    @property
    def state(self) -> dict[str, str]:
        """For the status: `camera` (up, lost), `camera_since` and `camera_reason`; of files nothing."""
        return self.report()


def open_camera(
    source: str, log: Log, *, size: tuple[int, int] = (1280, 720), stall: float = 4, hang: float = 90, retry: float = 1
) -> Camera:
    """Open what `source` names: a number, a device, a URL, a video file or a folder of images.

    A live camera may come later, unless it is a device that does not exist. It is lost `stall` s after the
    last frame, opened again after `retry` s and ever longer, and given up when OpenCV blocks for `hang` s.
    `size` is the wish of a device's frames, width and height in px.
    CameraError if there is nothing to read, and from the iterator when a live camera is given up.
    """
    source = source.strip()
    scheme, colon, rest = source.partition("://")
    if colon:
        source = f"{scheme.lower()}://{rest}"
    path = Path(f"/dev/video{source}" if source.isdecimal() else source)
    by_number_only = source.isdecimal() and sys.platform != "linux"
    if source.startswith(URLS) or path.is_char_device() or by_number_only:
        device = source if source.startswith(URLS) or by_number_only else str(path)
        live = Live(device, log, size=size, stall=stall, hang=hang, retry=retry)
        return Camera(live.images(), live=True, close=live.close, report=lambda: live.state)
    if path.is_dir():
        return Camera(open_folder(path, log), live=False)
    if path.is_file():
        return Camera(open_video(path, log), live=False)
    if path.is_relative_to("/dev"):
        remedy = "see `ls /dev/video*`, and on K3s give the pod the device"
    else:
        remedy = "give a number, a device, a URL, a video file or a folder of images"
    shown = redact(source)
    raise CameraError(f"CAMERA={shown}: there is no {path if source.isdecimal() else shown}; {remedy}")
