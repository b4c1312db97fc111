"""How long from a camera's frame to the object in the bucket, and how much memory does each part take at most?

`make bench`, or `python -m tests.bench.latency`: a live stream of 1280x720 with two people, ten looks a second, each
of which is sent; the shipped pipeline with mutual TLS, and nginx as the store, whose log tells when a PUT ended.
The time of a frame is its `captured_at`, which stands in the key.
"""

import re
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import cv2

from tests.bench.sink import start_nginx
from tests.clip import make_clip
from tests.mjpeg import Stream, camera_server
from tests.pipeline import Pipeline, eventually, make_certs

SECONDS, FPS = 30, 25


class Clip(Stream):
    """The demo's clip, played again and again as a camera would."""

    def __init__(self, path: Path) -> None:
        super().__init__(FPS)
        capture = cv2.VideoCapture(str(path))
        self.pictures = []
        while (got := capture.read())[0]:
            self.pictures.append(cv2.imencode(".jpg", got[1])[1].tobytes())

    def parts(self) -> Iterator[bytes]:
        """One picture after the other, in real time."""
        began = time.monotonic()
        for number in range(10**6):
            jpeg = self.pictures[number % len(self.pictures)]
            yield b"--part\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg) + jpeg + b"\r\n"
            if self.gone.wait(max(began + (number + 1) / FPS - time.monotonic(), 0)):
                return


def peak(pid: int) -> float:
    """Give the most memory that a process has taken, in MiB."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match
    return int(match[1]) / 1024


def delays(log: str) -> list[float]:
    """Give for each PUT in nginx's log how long before, in ms, its frame was captured."""
    found = re.findall(r"^(\S+) /faces/faces/[\w-]+/cam0/(\d{4}/\d\d/\d\d/\d{6}\.\d{3})Z", log, re.M)
    when = [datetime.strptime(at, "%Y/%m/%d/%H%M%S.%f").replace(tzinfo=timezone.utc).timestamp() for _, at in found]
    return [1000 * (float(put) - at) for (put, _), at in zip(found, when, strict=True)]


def main() -> None:
    """Print p50 and p99 of the delays, and the peak memory of each part."""
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    make_certs(directory / "certs", "server", "sink", "device jetson-01")
    parts = Pipeline(directory, directory / "certs")
    make_clip(directory / "clip.mp4")
    try:
        url = start_nginx(parts)
        parts.cloud()
        parts.edge()
        parts.sink(AWS_ENDPOINT_URL_S3=url)
        parts.logger()
        parts.await_bridge()
        with camera_server(Clip(directory / "clip.mp4")) as port:
            often = {"FACE_INTERVAL": "0.1", "FACE_INTERVAL_MAX": "0.1"}
            parts.detector(f"http://127.0.0.1:{port}/", **often)
            eventually(lambda: "face:" in parts.log("detector"), 60)
            (directory / "put.log").write_text("")
            threading.Event().wait(SECONDS)
            took = delays((directory / "put.log").read_text())
            memory = {name: peak(process.pid) for name, process in parts.running.items() if name != "nginx"}
            parts.stop("detector")
        if len(took) < 100:
            sys.exit(f"only {len(took)} faces in {SECONDS} s")
        cuts = statistics.quantiles(took, n=100)
        print(f"frame to object, {len(took)} faces: p50 {cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms")
        print("peak memory, MiB:", ", ".join(f"{name} {size:.0f}" for name, size in memory.items()))
    finally:
        parts.end()
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
