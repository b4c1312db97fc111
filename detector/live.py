"""Read a live camera: the newest frame only, and again when it was lost."""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
from cv2.typing import MatLike

from .reasons import redact, why_device, why_url

URLS = ("rtsp://", "rtsps://", "rtmp://", "rtmps://", "http://", "https://")
LONGEST_WAIT = 30.0  # s between two tries to open a lost camera
PATIENCE = 60  # s that a keyframe may take: smart codecs send one in 30 s
FAST_ENOUGH = 15  # frames/s; below, a USB camera is asked for MJPG

Log = Callable[..., None]  # log(event, key=value, ...)


class CameraError(Exception):
    status = 66  # sysexits.h: EX_NOINPUT


class Frame(NamedTuple):
    image: MatLike  # (H, W, 3), uint8, BGR
    at: float  # s since the epoch, UTC: when it was captured


def iso_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def open_url(url: str, stall: float) -> cv2.VideoCapture:
    """FFmpeg's reader for a URL, open or not; it ends by itself when nothing comes for `stall` s."""
    rtsp = url.startswith("rtsp")
    options = f"{'timeout' if rtsp else 'rw_timeout'};{stall * 1e6:.0f}|fpsprobesize;0"
    if rtsp:
        # Until the first keyframe, which may tell the size; sound would hide that the video stalls
        options += f"|rtsp_flags;prefer_tcp|allowed_media_types;video|analyzeduration;{PATIENCE}000000"
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", options)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, PATIENCE * 1000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, PATIENCE * 1000]
    # Each further thread of the decoder would hold back a frame
    return cv2.VideoCapture(url, cv2.CAP_FFMPEG, [*limits, cv2.CAP_PROP_N_THREADS, 1])


def open_device(device: str, size: Sequence[int], stall: float) -> cv2.VideoCapture:
    """V4L2's reader for that device alone, at the size nearest to `size` px; MJPG if its own format gives less."""
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(round(stall) or 1))
    if sys.platform != "linux":
        return cv2.VideoCapture(int(device) if device.isdecimal() else device)
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
@dataclass
class Live:
    """The newest frame of a live camera, which is opened again whenever it is lost; limits in s."""

    source: str
    log: Log
    size: Sequence[int] = (1280, 720)  # px, the wish of a device's frames
    stall: float = 4  # without a frame; then it is lost
    hang: float = 90  # without a sign of life from OpenCV; then it is given up
    retry: float = 1  # until it is opened again, ever longer

    def __post_init__(self) -> None:
        self.url = self.source.startswith(URLS)
        self.newest: deque[Frame] = deque(maxlen=1)
        self.came, self.stop = threading.Event(), threading.Event()
        self.state = {"camera": "lost", "camera_since": iso_now(), "camera_reason": "opening"}  # for the status
        self.up_event, self.times = "camera up", 0
        self.reader: threading.Thread | None = None

    def start(self) -> None:
        """Read in a new thread; one that still reads ends as soon as it can."""
        self.stop.set()
        self.newest.clear()
        self.stop, self.deadline = threading.Event(), time.monotonic() + self.hang
        self.reader = threading.Thread(target=self.run, args=[self.stop], name="camera", daemon=True)
        self.reader.start()

    def images(self) -> Iterator[Frame | None]:
        """The newest frame, each once, or None after a moment; CameraError if OpenCV hangs."""
        if not self.reader:
            self.start()
        while not self.stop.is_set():
            self.came.wait(0.2)
            self.came.clear()
            frame = self.newest.pop() if self.newest else None
            if not frame and time.monotonic() > self.deadline:
                if not self.url or self.state["camera"] == "lost":
                    raise CameraError(f"CAMERA={redact(self.source)}: hangs for good; start again, or reset the camera")
                self.turn("lost", "no picture comes any more")
                self.start()
            yield frame

    def run(self, stop: threading.Event) -> None:
        """Open, read, say why that ended, wait, and again, until this thread is not wanted any more."""
        wait = self.retry
        while not stop.is_set():
            began = time.monotonic()
            capture = open_url(self.source, self.stall) if self.url else open_device(self.source, self.size, self.stall)
            frames = self.read(capture, stop)
            if stop.is_set():
                return
            self.deadline = time.monotonic() + self.hang + LONGEST_WAIT  # until it has been opened again
            capture.release()
            if frames == 1 and self.source.startswith("http"):  # a URL that gives one picture an answer
                stop.wait(began + 1 - time.monotonic())
                continue
            wait = self.retry if frames else min(wait * 2, LONGEST_WAIT)
            why = why_url if self.url else why_device
            self.turn("lost", "the stream ended" if frames and self.url else why(self.source))
            stop.wait(wait)

    def read(self, capture: cv2.VideoCapture, stop: threading.Event) -> int:
        """Hand over frames as they come, each with the time at which it was captured; gives how many came."""
        fps = capture.get(cv2.CAP_PROP_FPS)
        fourcc = round(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(8, "little")[:4].decode("latin-1").strip("\0 ")
        # FFmpeg lets go of such a frame when the next one begins: it was there when the last one came out
        held = self.source.startswith("rtsp") and fourcc in ("h264", "hevc")
        moment = min(max(0.25 / fps if fps > 0 else 0, 0.01), 0.25)  # s, less than a frame
        frames, buffered, before, opened = 0, held, time.time(), time.monotonic()
        fresh, self.deadline = opened, opened + self.hang
        while not stop.is_set() and capture.grab():
            now, heard = time.time(), time.monotonic()
            if stop.is_set() or (frames and heard - fresh > self.stall):
                break  # what the decoder still had is old
            ok, image = capture.retrieve()
            if not ok:
                continue
            buffered = buffered and (not frames or now - before < moment) and heard - opened < 1
            frames, fresh = frames + 1, heard
            self.deadline = heard + (self.stall if self.url else self.hang)
            if not buffered:
                at = before if held else now
                if not self.url and 0 <= (age := heard - capture.get(cv2.CAP_PROP_POS_MSEC) / 1000) < 1:
                    at -= age  # the kernel's clock
                if self.state["camera"] != "up":
                    size = f"{image.shape[1]}x{image.shape[0]}"
                    self.turn("up", "", size=size, format=fourcc, fps=round(fps))
                    self.up_event = "camera back"
                self.newest.append(Frame(image, at))
                self.came.set()
            before = now
        return frames

    def turn(self, camera: str, reason: str, **found: object) -> None:
        """Note for the status whether it is up or lost, and say it: what stays so the 2nd, 4th, 8th ... time."""
        lost = "camera lost" if self.state["camera"] == "up" else "camera does not open"
        if (camera, reason) != (self.state["camera"], self.state["camera_reason"]):
            self.state.update(camera=camera, camera_since=iso_now(), camera_reason=reason)
            self.times = 0
        self.times += 1
        if self.times.bit_count() == 1:
            event = self.up_event if camera == "up" else lost
            self.log(event, camera=redact(self.source), **found or {"reason": reason})

    def close(self) -> None:
        """Let go of the camera, if it lets go of us."""
        self.stop.set()
        if self.reader:
            self.reader.join(timeout=2)
        self.state.update(camera="closed", camera_since=iso_now(), camera_reason="")
