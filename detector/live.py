"""Read a live camera: the newest frame only, and again when it was lost."""

import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
from cv2.typing import MatLike

from service import log

from .reasons import redact, why

STALL = 4  # s without a frame; then it is lost
HANG = 200  # s without a sign of life from OpenCV; asking why, waiting and opening take 180 at most
RETRY, LONGEST_WAIT = 1, 30  # s until a lost camera is opened again, ever longer
PATIENCE = 60  # s that a keyframe may take: smart codecs send one in 30 s
FAST_ENOUGH = 15  # frames/s; below, a USB camera is asked for MJPG
TURNS = {("closed", "up"): "camera up", ("up", "lost"): "camera lost", ("lost", "up"): "camera back"}


class CameraError(Exception):
    status = 66  # sysexits.h: EX_NOINPUT


class Frame(NamedTuple):
    image: MatLike  # (H, W, 3), uint8, BGR
    at: float  # s since the epoch, UTC: when it was captured


def open_url(url: str) -> cv2.VideoCapture:
    """FFmpeg's reader for a URL, open or not; it ends by itself when nothing comes for STALL s."""
    options = f"rw_timeout;{STALL}000000|fpsprobesize;0"
    if url.startswith("rtsp"):
        # Until the first keyframe, which may tell the size; sound would hide that the video stalls
        options = options.removeprefix("rw_") + f"|analyzeduration;{PATIENCE}000000"
        options += "|rtsp_flags;prefer_tcp|allowed_media_types;video"
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", options)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, PATIENCE * 1000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, PATIENCE * 1000]
    # Each further thread of the decoder would hold back a frame
    return cv2.VideoCapture(url, cv2.CAP_FFMPEG, [*limits, cv2.CAP_PROP_N_THREADS, 1])


def open_device(device: str, size: Sequence[int]) -> cv2.VideoCapture:
    """V4L2's reader for that device alone, at the size nearest to `size` px; MJPG if its own format gives less."""
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(STALL))
    if device.isdecimal():  # on another system than Linux
        return cv2.VideoCapture(int(device))
    capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
    # A camera without MJPG gets what OpenCV likes best of what it has
    for fourcc in (capture.get(cv2.CAP_PROP_FOURCC), cv2.VideoWriter.fourcc(*"MJPG")):
        capture.set(cv2.CAP_PROP_FOURCC, fourcc)
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        if capture.get(cv2.CAP_PROP_FRAME_WIDTH) >= size[0] and capture.get(cv2.CAP_PROP_FPS) >= FAST_ENOUGH:
            break
    return capture


# A thread of its own reads, so that a slow detector sees the present and not what the driver or the network
# has queued up, and so that a read which does not come back can be left alone
class Live:
    """The newest frame of a live camera, which is opened again whenever it is lost."""

    live = True

    def __init__(self, source: str, size: Sequence[int]) -> None:
        self.source, self.size, self.url = source, size, "://" in source
        self.newest: deque[Frame] = deque(maxlen=1)
        self.came, self.stop = threading.Event(), threading.Event()
        self.stop.set()  # until it is asked for a frame
        self.reader: threading.Thread | None = None
        self.was, self.times = "closed", 0  # or up, or lost; how many times in a row
        self.state = {"camera": "lost", "camera_reason": "opening"}  # for the status

    def __iter__(self) -> Iterator[Frame | None]:
        """The newest frame, each once, or None after a moment; opens it if closed; CameraError if OpenCV hangs."""
        while True:
            if self.stop.is_set():
                self.newest.clear()
                self.stop, self.deadline = threading.Event(), time.monotonic() + HANG
                self.reader = threading.Thread(target=self.run, args=[self.stop], name="camera", daemon=True)
                self.reader.start()
            self.came.wait(0.2)
            self.came.clear()
            frame = self.newest.pop() if self.newest else None
            if not frame and time.monotonic() > self.deadline:
                if not self.url or self.was != "up":
                    raise CameraError(f"CAMERA={redact(self.source)}: hangs for good; start again, or reset the camera")
                self.turn("lost", "no picture comes any more")
                self.stop.set()  # its thread ends as soon as it can, and another one opens the camera
            yield frame

    def run(self, stop: threading.Event) -> None:
        """Open, read, say why that ended, wait, and again, until this thread is not wanted any more."""
        wait = RETRY
        while not stop.is_set():
            capture = open_url(self.source) if self.url else open_device(self.source, self.size)
            frames = self.read(capture, stop)
            if stop.is_set():
                return
            self.deadline = time.monotonic() + HANG
            capture.release()
            wait = RETRY if frames else min(wait * 2, LONGEST_WAIT)
            reason = "the stream ended" if frames and self.url else why(self.source)
            snapshot = frames == 1 and self.source.startswith("http")  # one picture an answer: asked again, quietly
            if not (snapshot or stop.is_set()):
                self.turn("lost", reason)
            stop.wait(wait)

    def read(self, capture: cv2.VideoCapture, stop: threading.Event) -> int:
        """Hand over frames as they come, each with the time at which it was captured; gives how many came."""
        fps = capture.get(cv2.CAP_PROP_FPS)
        fourcc = round(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(8, "little")[:4].decode("latin-1").strip("\0 ")
        # FFmpeg lets go of such a frame when the next one begins: it was there when the last one came out
        held = self.source.startswith("rtsp") and fourcc in ("h264", "hevc")
        frames, first, before = 0, math.inf, math.inf
        while capture.grab() and not stop.is_set():
            now = time.monotonic()
            if now - before > STALL:
                break  # what the decoder still had is old
            ok, image = capture.retrieve()
            if not ok:
                continue
            frames, first = frames + 1, min(first, now)
            self.deadline = now + (STALL if self.url else HANG)
            if not held or now - first >= 1:  # what had been buffered comes within a second
                captured, by_kernel = before if held else now, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if not self.url and now - 1 < by_kernel <= now:
                    captured = by_kernel
                if self.was != "up":
                    self.turn("up", size=f"{image.shape[1]}x{image.shape[0]}", format=fourcc, fps=round(fps))
                self.newest.append(Frame(image, time.time() - time.monotonic() + captured))
                self.came.set()
            before = now
        return frames

    def turn(self, camera: str, reason: str = "", **found: object) -> None:
        """Note for the status whether it is up or lost, and say it: what stays so the 2nd, 4th, 8th ... time."""
        event = TURNS.get((self.was, camera), "camera does not open")
        if (camera, reason) != (self.was, self.state["camera_reason"]):
            self.times = 0
        self.note(camera, reason)
        self.times += 1
        if self.times.bit_count() == 1:
            log(event, camera=redact(self.source), **found or {"reason": reason})

    def close(self) -> None:
        """Let go of the camera, if it lets go of us; asked for a frame, it opens again."""
        self.stop.set()
        if self.reader:
            self.reader.join(timeout=2)
        self.note("closed")

    def note(self, camera: str, reason: str = "") -> None:
        if camera != self.was:
            self.state["camera_since"] = time.strftime("%FT%TZ", time.gmtime())
        self.was = camera
        self.state.update(camera=camera, camera_reason=reason)
