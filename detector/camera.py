"""Read frames from whatever `CAMERA` names: a live camera, a video file or a folder of images."""

import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from service import log

from .live import CameraError, Frame, Live
from .reasons import redact

URLS = ("rtsp://", "rtsps://", "rtmp://", "rtmps://", "http://", "https://")
IMAGES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
UNREADABLE = 1000  # failed reads in a row; then there is no more
EPOCH_OF_MP4 = 2082844800  # s from 1904 to 1970


class Recording(chain[Frame]):
    """The frames of a video or a folder: as `Live`, but they wait, and nothing needs to be closed."""

    live = False
    state: Mapping[str, str] = {}

    def close(self) -> None:
        pass


Camera = Live | Recording


def created(path: Path) -> int:
    """When an MP4 or MOV says that it was made, s since the epoch; 0 where it does not say."""
    size = 8
    with path.open("rb") as file:
        # Boxes, one behind the other: size and kind (4 bytes each), content; of a size of 1 the true one is behind
        while size >= 8 and len(box := file.read(28)) == 28:
            if box[4:8] + box[12:16] == b"moovmvhd":  # version, flags, time
                return max(int.from_bytes(box[20 : 28 if box[16] else 24], "big") - EPOCH_OF_MP4, 0)
            size = int.from_bytes(box[8:16] if box[:4] == b"\0\0\0\1" else box[:4], "big")
            file.seek(min(size, path.stat().st_size) - 28, 1)
    return 0


def video_frames(path: Path) -> Iterator[Frame]:
    """Every frame that can be read, in order; what cannot be read is skipped, and said."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    fps = capture.get(cv2.CAP_PROP_FPS) or 25.0  # some containers do not tell
    length = max(capture.get(cv2.CAP_PROP_FRAME_COUNT) / fps, 0)
    made = created(path)
    if not (made or length):  # a browser's webm does not tell its length, and must not end in the future
        while capture.grab():
            length = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        capture.open(str(path), cv2.CAP_FFMPEG)
    start = made or path.stat().st_mtime - length
    log("video", file=path, start=f"{start:.0f}", by="creation time" if made else "file's time less its length")
    at, skipped, failed = -1.0, 0, 0
    while failed < UNREADABLE:
        ok, image = capture.read()
        if not ok:
            failed += 1
            continue
        position = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if at < 0 and path.suffix.lower() in {".mkv", ".webm"}:
            # Their length counts from the file's zero, positions from the first time stamp
            zero = max(capture.get(cv2.CAP_PROP_PTS) / fps - position, 0)
            start, length = start + zero, length - zero
        at = position if position > at else at + 1 / fps
        skipped, failed = skipped + failed, 0
        yield Frame(image, start + at)
    if skipped:
        log("frames skipped", camera=path, frames=skipped, reason="cannot be read")
    if at + 1 / fps < length - 1:
        log("video ended early", camera=path, seconds=round(at, 1), expected=round(length, 1))


def folder_frames(folder: Path) -> Iterator[Frame]:
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


def open_camera(source: str, size: Sequence[int] = (1280, 720)) -> Camera:
    """Open a number, a device, a URL, a video or a folder; CameraError if there is nothing to read, now or for good."""
    source = re.sub(r"^\w+://", lambda scheme: scheme[0].lower(), source.strip())
    shown = f"CAMERA={redact(source)}"
    if source.isdecimal() and sys.platform == "linux":
        source = f"/dev/video{source}"
    path = Path(source).absolute()  # FFmpeg takes a relative name with a colon for a protocol
    if source.startswith(URLS) or source.isdecimal() or path.is_char_device():
        return Live(source, size)
    if path.is_dir():
        frames, wanted = folder_frames(path), f"no readable image in this folder ({' '.join(sorted(IMAGES))})"
    elif path.is_file():
        frames, wanted = video_frames(path), f"no video that can be read ({path.stat().st_size} bytes); is it whole?"
    else:
        remedy = "give a device of `ls /dev/video*` (on K3s to the pod, too), a URL, a video file or a folder of images"
        raise CameraError(f"{shown}: there is no {redact(source)}; {remedy}")
    try:
        return Recording([next(frames)], frames)
    except (StopIteration, OSError) as error:
        raise CameraError(f"{shown}: {str(error) or wanted}") from None
