"""Read every frame of a video file, or every image of a folder, with the time at which it was captured."""

import math
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from cv2.typing import MatLike

from .live import CameraError, Frame, Log

IMAGES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
UNREADABLE = 1000  # failed reads in a row; then there is no more
EPOCH_OF_MP4 = 2082844800  # s from 1904 to 1970


def created(path: Path) -> float:
    """When an MP4 or MOV says that it was made, s since the epoch; 0 where it does not say."""
    with path.open("rb") as file:
        while len(box := file.read(16)) == 16:
            size, kind, large = struct.unpack(">I4sQ", box)
            if kind == b"moov":
                header = box[8:] + file.read(16)  # mvhd comes first: size, kind, version, flags, time
                if header[4:8] != b"mvhd":
                    return 0
                since_1904: int = struct.unpack_from(">Q" if header[8] else ">I", header, 12)[0]
                return max(since_1904 - EPOCH_OF_MP4, 0)
            size = large if size == 1 else size
            if size < 8:
                return 0
            file.seek(size - 16, 1)
    return 0


def video_frames(path: Path, capture: cv2.VideoCapture, log: Log) -> Iterator[Frame]:
    """Every frame that can be read, in order; what cannot be read is skipped, and said."""
    fps, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    fps = fps if math.isfinite(fps) and fps > 0 else 25.0  # some containers do not tell
    length = max(count / fps, 0)
    made = created(path)
    start = made or path.stat().st_mtime - length
    log("video", file=path, start=f"{start:.0f}", by="creation time" if made else "file's time less its length")
    at, end, skipped, failed, some = 0.0, 0.0, 0, 0, False
    while failed < UNREADABLE:
        ok, image = capture.read()
        if not ok:
            failed += 1
            continue
        position = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        at = position if position > at or not some else at + 1 / fps
        # The end counts from the file's zero, where the first time stamp may not be
        end = max(at, capture.get(cv2.CAP_PROP_PTS) / fps)
        skipped, failed, some = skipped + failed, 0, True
        yield Frame(image, start + at)
    if skipped:
        log("frames skipped", camera=path, frames=skipped, reason="cannot be read")
    if end + 1 / fps < length - 1:
        log("video ended early", camera=path, seconds=round(end, 1), expected=round(length, 1))


def open_video(path: Path, log: Log) -> Iterator[Frame]:
    """The frames of a video file; CameraError if there is none."""
    # FFmpeg takes a relative name with a colon for a protocol
    frames = video_frames(path, cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG), log)
    first = next(frames, None)
    if first is None:
        size = path.stat().st_size
        raise CameraError(f"CAMERA={path}: no video that can be read ({size} bytes); is the file whole?")

    def images() -> Iterator[Frame]:
        yield first
        yield from frames

    return images()


def read_image(path: Path) -> MatLike | None:
    """The image in a file, turned upright, or None; unlike `imread` this can turn a TIFF."""
    try:
        return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, OSError):  # empty, or more pixels than OpenCV's limit
        return None


def open_folder(folder: Path, log: Log) -> Iterator[Frame]:
    """Every image in a folder by name, one second apart up to now; other files are left alone."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES)
    except OSError as error:
        raise CameraError(f"CAMERA={folder}: {error.strerror}; let this user read the folder") from error
    if not any(read_image(path) is not None for path in paths):
        raise CameraError(f"CAMERA={folder}: no readable image in this folder ({' '.join(sorted(IMAGES))})")

    start = time.time() - len(paths)

    def images() -> Iterator[Frame]:
        for index, path in enumerate(paths):
            image = read_image(path)
            if image is None:
                log("image skipped", file=path, reason="cannot be read")
            else:
                yield Frame(image, start + index)

    return images()
