"""A camera on loopback: an MJPEG stream over HTTP that can stall, die and return."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
from cv2.typing import MatLike

BITS = 16  # each a square of 20 px, black or white: a number that survives JPEG


def numbered(number: int) -> MatLike:
    """A picture of 320 x 240 px that carries a number of 16 bits."""
    image = np.full((240, BITS * 20, 3), 128, np.uint8)
    for bit in range(BITS):
        image[:20, bit * 20 : bit * 20 + 20] = 255 * (number >> bit & 1)
    return image


def number_of(image: MatLike) -> int:
    """The number that a picture carries."""
    return sum(1 << bit for bit in range(BITS) if image[10, bit * 20 + 10, 0] > 127)


class Stream:
    """What the camera does just now, and when it sent which picture."""

    def __init__(self, fps: float = 25, picture: Callable[[int], MatLike] = numbered):
        self.fps, self.picture = fps, picture
        self.stalled = threading.Event()
        self.gone = threading.Event()
        self.readers = 0  # how many there were so far
        self.reading = 0  # how many there are
        self.sent: dict[int, float] = {}  # number of the picture -> time.time()

    def parts(self) -> Iterator[bytes]:
        self.readers += 1
        self.reading += 1
        try:
            while not self.gone.is_set():
                if not self.stalled.is_set():
                    number = len(self.sent)
                    jpeg = cv2.imencode(".jpg", self.picture(number))[1].tobytes()
                    self.sent[number] = time.time()
                    yield b"--part\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                    yield jpeg + b"\r\n"
                self.gone.wait(1 / self.fps)
        finally:
            self.reading -= 1


@contextmanager
def camera_server(stream: Stream, port: int = 0, address: str = "127.0.0.1") -> Iterator[int]:
    """Serve the stream; gives the port. Leaving it is a camera that dies."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=part")
            self.end_headers()
            try:
                for part in stream.parts():
                    self.wfile.write(part)
            except ConnectionError:
                pass  # the reader went away, as it does when it finds the stream stalled

        def log_message(self, *_: object) -> None:
            pass

    stream.gone.clear()
    server = ThreadingHTTPServer((address, port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        stream.gone.set()
        server.shutdown()
        server.server_close()
        thread.join()
