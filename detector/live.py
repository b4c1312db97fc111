"""Read a live camera: the newest frame only, and again when it was lost.

A thread reads, so that a slow detector sees the present and not what the driver or the network has queued up.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
from cv2.typing import MatLike

URLS = ("rtsp://", "rtsps://", "http://", "https://")
LONGEST_WAIT = 30.0  # s between two tries to open a lost camera

Log = Callable[..., None]  # log(event, key=value, ...)


class CameraError(Exception):
    """The camera cannot be used: one line that names it and says what to do."""


class Frame(NamedTuple):
    """A picture and its time."""

    image: MatLike  # (H, W, 3), uint8, BGR
    at: float  # s since the epoch, UTC: when it was captured, or for files: start of reading + media time


def redact(source: str) -> str:
    """The source without what may be a password: user and password, and the query, of a URL."""
    if not source.startswith(URLS):
        return source
    return re.sub(r"\?.*", "?...", re.sub(r"//.*@", "//...@", source))


def open_live(source: str, stall: float) -> cv2.VideoCapture:
    """OpenCV's reader for a device or URL, open or not; a read of a URL blocks for `stall` s at most."""
    if source.startswith(URLS):
        # By default both block for 30 s. Opening takes longer than reading: a whole picture is waited for.
        opening, reading = cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, cv2.CAP_PROP_READ_TIMEOUT_MSEC
        return cv2.VideoCapture(source, cv2.CAP_FFMPEG, [opening, 10_000, reading, round(stall * 1000)])
    return cv2.VideoCapture(int(source) if source.isdecimal() else source)


class Live:
    """The newest frame of a live camera, which a thread reads, and opens again whenever it is lost."""

    def __init__(self, source: str, log: Log, stall: float, hang: float, retry: float):
        self.source, self.log = source, log
        self.stall, self.hang, self.retry = stall, hang, retry
        self.newest: Frame | None = None
        self.changed = threading.Condition()
        self.lost = False
        self.stop = threading.Event()
        self.fresh = self.heard = time.monotonic()  # last frame, and last sign of life of the thread
        self.thread = threading.Thread(target=self.keep_reading, name="camera", daemon=True)
        self.thread.start()

    def say(self, lost: bool, **fields: object) -> None:
        """Log that the camera is lost, or back, once."""
        with self.changed:
            news, self.lost = lost != self.lost, lost
        if news:
            self.log("camera lost" if lost else "camera back", camera=redact(self.source), **fields)

    def keep_reading(self) -> None:
        """Open the camera, read it until it is lost, wait, again; the waits double while nothing comes."""
        wait = self.retry
        while not self.stop.is_set():
            if self.read_until_lost():
                wait = self.retry
            self.heard = time.monotonic()
            if not self.stop.is_set():
                self.say(lost=True, retry_s=wait)
            self.stop.wait(wait)
            wait = min(wait * 2, LONGEST_WAIT)

    def read_until_lost(self) -> bool:
        """Hand over frames as they come; tells whether there was any."""
        some = False
        self.heard = time.monotonic()
        capture = open_live(self.source, self.stall)
        while not self.stop.is_set():
            self.heard = time.monotonic()
            ok, image = capture.read()
            if not ok:
                break
            with self.changed:
                self.newest = Frame(image, time.time())
                self.changed.notify_all()
            self.fresh, some = time.monotonic(), True
            self.say(lost=False)
        capture.release()
        return some

    def images(self) -> Iterator[Frame | None]:
        """The newest frame, each once, or None after half a second; CameraError if the thread hangs."""
        while not self.stop.is_set():
            with self.changed:
                self.changed.wait_for(lambda: self.newest or self.stop.is_set(), timeout=0.5)
                frame, self.newest = self.newest, None
            if frame is None and not self.stop.is_set():
                self.check()
            yield frame

    def check(self) -> None:
        """Say a stall that OpenCV has not noticed, and give up on a camera that hangs."""
        now = time.monotonic()
        if now - self.fresh > self.stall:
            self.say(lost=True, silent_s=round(now - self.fresh, 1))
        if now - self.heard > self.hang or not self.thread.is_alive():
            raise CameraError(
                f"CAMERA={redact(self.source)}: hangs for good; start again, or reset the camera"
            )

    def close(self) -> None:
        """Let go of the camera, if it lets go of us."""
        self.stop.set()
        with self.changed:
            self.changed.notify_all()
        self.thread.join(timeout=2)
