"""What goes wrong on purpose: a network that is cut or swallows all, an S3 that refuses or hangs."""

import http.client
import select
import socket
import threading
import time
from contextlib import closing, nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHUNK = 65536  # bytes
# Of some errors of S3; the others: 403
STATUS = {
    "SlowDown": 503,
    "InternalError": 500,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "InvalidArgument": 400,
    "EntityTooLarge": 413,
    "RequestHeaderSectionTooLarge": 431,
}


class Wan:
    """A TCP relay in the place of the network between the edge and the cloud.

    `state` is "up", "cut" (connections are closed, and new ones too) or "hole" (half-open: what is sent
    vanishes, and nobody is told). `rate` is bytes a second each way, 0 for no limit.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.state = "up"
        self.rate = 0.0
        self.listener = socket.create_server(("127.0.0.1", 0))
        # small, so that a slow link is felt by who sends
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Cut for good."""
        self.state = "cut"
        self.listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self.listener.accept()
                threading.Thread(target=self._relay, args=[near], daemon=True).start()

    def _relay(self, near: socket.socket) -> None:
        with near, suppress(OSError):
            if self.state == "cut":
                return
            with socket.create_connection(("127.0.0.1", self.target_port)) as far:
                swallowed = False
                while self.state != "cut":
                    for source in select.select([near, far], [], [], 0.05)[0]:
                        data = source.recv(CHUNK)
                        if not data:
                            return
                        # Once a byte of a TLS stream is missing the rest cannot go on
                        swallowed |= self.state == "hole"
                        if not swallowed:
                            (far if source is near else near).sendall(data)
                            time.sleep(len(data) / self.rate if self.rate else 0)


class FaultyS3:
    """An S3 API over HTTP before the real one; `fault` is an S3 error code or "hang".

    `refuses` gives such a code to each PUT whose path holds a word, `delay` is s before each answer, `rate`
    bytes/s for all bodies together.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.fault = ""
        self.refused = 0
        self.refuses: dict[str, str] = {}
        self.delay = 0.0
        self.rate = 0
        self.link = threading.Lock()
        self.paths: list[str] = []
        self.busy = self.busiest = 0
        self.healed = threading.Event()
        faulty = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_request(self) -> None:
                faulty.busy += 1
                faulty.busiest = max(faulty.busiest, faulty.busy)
                try:
                    self.handle_whole(faulty.body(self.rfile, int(self.headers.get("Content-Length", 0))))
                finally:
                    faulty.busy -= 1

            def handle_whole(self, body: bytes) -> None:
                faulty.paths.append(self.path)
                fault = faulty.fault or faulty.refusal(self.path)
                faulty.refused += bool(fault)
                faulty.healed.wait(faulty.delay)
                if fault == "hang":
                    faulty.healed.wait(150)
                    self.close_connection = True
                elif fault:
                    self.answer(STATUS.get(fault, 403), {}, faulty.error_body(fault))
                else:
                    self.answer(*faulty.forward(self.command, self.path, dict(self.headers), body))

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_request  # noqa: N815

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # a client that has hung up is no error here
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.server.daemon_threads = True
        self.port = int(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def heal(self) -> None:
        """Work again."""
        self.fault = ""
        self.healed.set()
        self.healed = threading.Event()

    def close(self) -> None:
        """Stop listening."""
        self.heal()
        self.server.shutdown()
        self.server.server_close()

    def refusal(self, path: str) -> str:
        """Give the code for a path, empty when it is not refused."""
        return next((code for word, code in self.refuses.items() if word in path), "")

    def body(self, source: Any, length: int) -> bytes:
        """Read a body, in turns with the others when the link is slow."""
        whole = b""
        while len(whole) < length:
            with self.link if self.rate else nullcontext():
                piece = source.read(min(4096 if self.rate else length, length - len(whole)))
                time.sleep(len(piece) / self.rate if self.rate else 0)
            if not piece:
                break
            whole += piece
        return whole

    def error_body(self, code: str) -> bytes:
        """Give S3's XML for the fault."""
        return f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()

    def forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Pass a request on."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.target_port, timeout=30)) as onward:
            onward.request(method, path, body, {k: v for k, v in headers.items() if k.lower() != "expect"})
            response = onward.getresponse()
            return response.status, dict(response.getheaders()), response.read()
