"""Read a live camera: the newest frame only, and again when it was lost.

A thread of its own reads each connection, so that a slow detector sees the present and not what the driver
or the network has queued up, and so that a read which does not come back can be left alone.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import NamedTuple

import cv2
from cv2.typing import MatLike

from .reasons import redact, why_device, why_url

URLS = ("rtsp://", "rtsps://", "rtmp://", "rtmps://", "http://", "https://")
LONGEST_WAIT = 30.0  # s between two tries to open a lost camera
LONGEST_SILENCE = 3600.0  # s between two lines that say it is lost
PATIENCE = 60  # s that a keyframe may take: smart codecs send one in 30 s
FAST_ENOUGH = 15  # frames/s; below, a USB camera is asked for MJPG

Log = Callable[..., None]  # log(event, key=value, ...)


class CameraError(Exception):
    """The camera cannot be used: one line that names it and says what to do."""

    status = 66  # sysexits.h: EX_NOINPUT


class Frame(NamedTuple):
    """A picture and its time."""

    image: MatLike  # (H, W, 3), uint8, BGR
    at: float  # s since the epoch, UTC: when it was captured


def open_url(url: str, stall: float) -> cv2.VideoCapture:
    """FFmpeg's reader for a URL, open or not; it ends by itself when nothing comes for `stall` s.

    It decodes in one thread, since each further one holds back a frame.
    """
    silence = f"timeout;{stall * 1e6:.0f}" if url.startswith("rtsp") else f"rw_timeout;{stall * 1e6:.0f}"
    options = f"{silence}|fpsprobesize;0"
    if url.startswith("rtsp"):
        # Until the first keyframe, which may tell the size; sound would hide that the video stalls
        options += f"|rtsp_flags;prefer_tcp|allowed_media_types;video|analyzeduration;{PATIENCE}000000"
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", options)
    patience = PATIENCE * 1000
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, patience, cv2.CAP_PROP_READ_TIMEOUT_MSEC, patience]
    return cv2.VideoCapture(url, cv2.CAP_FFMPEG, [*limits, cv2.CAP_PROP_N_THREADS, 1])


def open_device(device: str, size: tuple[int, int], stall: float) -> cv2.VideoCapture:
    """V4L2's reader for that device alone, at the size nearest to `size` px; MJPG if that gives more."""
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(round(stall) or 1))
    if sys.platform != "linux":
        return cv2.VideoCapture(int(device) if device.isdecimal() else device)
    capture = cv2.VideoCapture(device, cv2.CAP_V4L2)

    def ask(fourcc: float) -> tuple[bool, float]:
        capture.set(cv2.CAP_PROP_FOURCC, fourcc)
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        large = capture.get(cv2.CAP_PROP_FRAME_WIDTH) >= size[0]
        return large, min(capture.get(cv2.CAP_PROP_FPS), FAST_ENOUGH)

    if not capture.isOpened():
        return capture
    own = capture.get(cv2.CAP_PROP_FOURCC)
    plain = ask(own)
    if plain < (True, FAST_ENOUGH) and ask(cv2.VideoWriter.fourcc(*"MJPG")) <= plain:
        ask(own)
    return capture


class Connection(threading.Thread):
    """One try to read the camera, from its opening until it is lost; ends by itself, or after `leave`."""

    def __init__(self, source: str, size: tuple[int, int], stall: float, hand: Callable[[Frame], None]):
        super().__init__(name="camera", daemon=True)
        self.source, self.size, self.stall, self.hand = source, size, stall, hand
        self.opened = self.fresh = self.heard = time.monotonic()  # fresh: the last frame; heard: sign of life
        self.frames = 0
        self.snapshot = False  # a URL that gives one picture an answer
        self.leave = False
        self.got: dict[str, object] = {}  # size, format and frames/s
        self.reason = ""
        self.start()

    def run(self) -> None:
        """Open, read, and find out why there was nothing to read."""
        url = self.source.startswith(URLS)
        capture = open_url(self.source, self.stall) if url else open_device(self.source, self.size, self.stall)
        self.read(capture)
        capture.release()
        if self.frames:
            self.reason = "the stream ended" if url else why_device(self.source)
        elif not self.leave:
            self.reason = why_url(self.source) if url else why_device(self.source)

    def read(self, capture: cv2.VideoCapture) -> None:
        """Hand over frames as they come, each with the time at which it was captured."""
        fps = capture.get(cv2.CAP_PROP_FPS)
        fourcc = round(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(8, "little")[:4].decode("latin-1").strip("\0 ")
        # FFmpeg lets go of such a frame when the next one begins: it was there when the last one came out
        held = self.source.startswith("rtsp") and fourcc in ("h264", "hevc")
        moment = min(max(0.25 / fps if fps > 0 else 0, 0.01), 0.25)  # s, less than a frame
        buffered, opened, before, image = held, time.monotonic(), time.time(), None
        while not self.leave and capture.grab():
            now, self.heard = time.time(), time.monotonic()
            if self.frames and self.heard - self.fresh > self.stall:
                return  # what the decoder still had is old
            ok, image = capture.retrieve()
            if ok:
                buffered = buffered and (not self.frames or now - before < moment) and self.heard - opened < 1
                self.frames, self.fresh = self.frames + 1, self.heard
                self.got = self.got or {
                    "size": f"{image.shape[1]}x{image.shape[0]}",
                    "format": fourcc,
                    "fps": round(fps),
                }
                if not buffered:
                    age = time.monotonic() - capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                    kernel = not self.source.startswith(URLS) and 0 <= age < 1
                    self.hand(Frame(image, before if held else now - age * kernel))
                before = now
        self.snapshot = self.frames == 1 and self.source.startswith("http")


class Live:
    """The newest frame of a live camera, which is opened again whenever it is lost."""

    def __init__(
        self, source: str, log: Log, *, size: tuple[int, int], stall: float, hang: float, retry: float
    ) -> None:
        self.source, self.log, self.size = source, log, size
        self.stall, self.hang, self.retry = stall, hang, retry
        self.newest: Frame | None = None
        self.changed = threading.Condition()
        self.stop = threading.Event()
        self.connection: Connection | None = None
        self.again, self.wait = 0.0, retry  # when to open next, and how long to wait after that
        self.say_at, self.pause = 0.0, retry
        self.was_up = False
        self.turn("lost", "opening")

    def turn(self, camera: str, reason: str) -> None:
        """Note what the status message says."""
        since = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
        self.state = {"camera": camera, "camera_since": since, "camera_reason": reason}

    def hand(self, frame: Frame) -> None:
        """Take the newest frame from a connection."""
        with self.changed:
            self.newest = frame
            self.changed.notify_all()

    def images(self) -> Iterator[Frame | None]:
        """The newest frame, each once, or None after a moment; CameraError if OpenCV hangs."""
        while not self.stop.is_set():
            with self.changed:
                self.changed.wait_for(lambda: self.newest or self.stop.is_set(), timeout=0.2)
                frame, self.newest = self.newest, None
            if frame:
                self.found()
            elif not self.stop.is_set():
                self.check(time.monotonic())
            yield frame

    def found(self) -> None:
        """Say that the camera is there, once."""
        if self.state["camera"] != "up":
            got = self.connection.got if self.connection else {}
            self.log("camera back" if self.was_up else "camera up", camera=redact(self.source), **got)
            self.turn("up", "")
            self.was_up, self.wait, self.say_at, self.pause = True, self.retry, 0.0, self.retry

    def miss(self, reason: str, now: float) -> None:
        """Say that the camera is not there, at growing intervals, and at once when the reason is another."""
        news = self.state["camera"] == "up"
        if news or reason != self.state["camera_reason"]:
            self.turn("lost", reason)
            self.say_at = now
        if now >= self.say_at:
            event = "camera lost" if news else "camera does not open"
            self.log(event, camera=redact(self.source), reason=reason)
            self.say_at, self.pause = now + self.pause, min(self.pause * 2, LONGEST_SILENCE)

    def check(self, now: float) -> None:
        """Open the camera when it is time, and notice when it was lost, stalls or hangs."""
        here = self.connection
        if here is None:
            if now >= self.again:
                self.connection = Connection(self.source, self.size, self.stall, self.hand)
        elif not here.is_alive():
            self.connection, self.again = None, now + self.wait
            if here.snapshot:
                self.again = here.opened + 1
            else:
                self.miss(here.reason, now)
                self.wait = min(self.wait * 2, LONGEST_WAIT)
        elif now - here.fresh > (self.stall if here.frames else PATIENCE) and self.source.startswith(URLS):
            self.miss("no picture comes any more", now)
            here.leave, self.connection = (True, None)  # its read may last
        elif now - here.heard > self.hang:
            raise CameraError(f"CAMERA={redact(self.source)}: hangs for good; start again, or reset the camera")

    def close(self) -> None:
        """Let go of the camera, if it lets go of us."""
        self.stop.set()
        with self.changed:
            self.changed.notify_all()
        if self.connection:
            self.connection.leave = True
            self.connection.join(timeout=2)
