#!/usr/bin/python3
"""A camera that speaks RTSP, on loopback: each frame carries the time at which it was made.

The tests import it; the server itself, GStreamer's, is run by the system's Python, for which Debian and
Ubuntu have the bindings (`tests/system browser` installs them).
"""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SYSTEM_PYTHON = "/usr/bin/python3"
WIDTH, HEIGHT = 656, 360
BITS, SIDE = 41, 16  # px: a row of squares, black or white, the wall clock in ms
GI = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
FAST = "tune=zerolatency speed-preset=ultrafast key-int-max="
ENCODERS = {
    "h264": "x264enc name=enc {fast} threads=1 ! rtph264pay config-interval=-1 pt=96",
    "h265": "x265enc name=enc {fast} ! rtph265pay config-interval=-1 pt=96",
    "mjpeg": "jpegenc name=enc ! rtpjpegpay pt=26",
}


def stamp_of(image: Any) -> float:
    """When a frame was made, s since the epoch, as it says itself."""
    return sum(1 << bit for bit in range(BITS) if image[SIDE // 2, bit * SIDE + SIDE // 2].mean() > 127) / 1000


def missing() -> str:
    """What keeps the server from running here, or nothing."""
    try:
        subprocess.run([SYSTEM_PYTHON, "-c", GI], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return "no GStreamer RTSP server here: apt-get install gir1.2-gst-rtsp-server-1.0 python3-gi"
    return ""


class Rtsp:
    """The running server, and what its viewers did so far."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.said: list[str] = []
        threading.Thread(target=lambda: self.said.extend(process.stdout or ()), daemon=True).start()

    def count(self, word: str) -> int:
        """How often a viewer came to `word`: client, PLAY."""
        return sum(line.strip() == word for line in list(self.said))

    def tell(self, word: str) -> None:
        """`freeze` sends no picture any more, `withhold` no keyframe, over open connections; `go on`."""
        assert self.process.stdin
        print(word, file=self.process.stdin, flush=True)


@contextmanager
def rtsp_server(port: int, fps: float = 25, gop: int = 25, codec: str = "h264", login: str = "") -> Iterator[Rtsp]:
    """Serve rtsp://127.0.0.1:`port`/cam; a keyframe every `gop` frames; `login` is USER:PASSWORD."""
    words = [str(word) for word in (SYSTEM_PYTHON, __file__, port, fps, gop, codec, login)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            server = Rtsp(process)
            deadline = time.monotonic() + 30
            while not server.count("serving"):
                assert process.poll() is None, "the RTSP server ended"
                assert time.monotonic() < deadline, "the RTSP server does not start"
                time.sleep(0.02)
            yield server
        finally:
            process.kill()


# ---- what follows runs in the system's Python ------------------------------------------------------------


def stamped(milliseconds: int) -> bytes:
    """A grey I420 frame with the time in its first rows."""
    row = b"".join((b"\xeb" if milliseconds >> bit & 1 else b"\x10") * SIDE for bit in range(BITS))
    return row * SIDE + b"\x80" * (WIDTH * (HEIGHT - SIDE) + WIDTH * HEIGHT // 2)


def feed(source: Any, gst: Any, fps: float, mode: list[str]) -> None:
    """Push frames at the pace of a camera, until nobody looks any more."""
    due = time.monotonic()
    while True:
        while mode[0] == "freeze":
            time.sleep(0.01)
        frame = gst.Buffer.new_wrapped(stamped(int(time.time() * 1000)))
        if source.emit("push-buffer", frame) != gst.FlowReturn.OK:
            return
        due = max(due + 1 / fps, time.monotonic() - 1 / fps)
        time.sleep(max(due - time.monotonic(), 0))


def serve(port: str, fps: str, gop: str, codec: str, login: str) -> None:
    """Serve until killed; says on stdout who comes, hears on stdin what to do."""
    import gi  # noqa: PLC0415 # the system's Python alone has it

    for name in ("Gst", "GstRtsp", "GstRtspServer"):
        gi.require_version(name, "1.0")
    from gi.repository import GLib, Gst, GstRtspServer  # noqa: PLC0415

    Gst.init(None)
    mode = ["go on"]
    caps = f"video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate={round(float(fps))}/1"
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        f"( appsrc name=src is-live=true format=time do-timestamp=true block=true caps={caps} "
        f"! {ENCODERS[codec].format(fast=FAST + gop)} name=pay0 )"
    )
    factory.set_shared(True)

    def pass_on(_pad: Any, info: Any) -> Any:
        keyframe = not info.get_buffer().has_flags(Gst.BufferFlags.DELTA_UNIT)
        return Gst.PadProbeReturn.DROP if keyframe and mode[0] == "withhold" else Gst.PadProbeReturn.OK

    def configure(_factory: Any, media: Any) -> None:
        source = media.get_element().get_child_by_name("src")
        encoder = media.get_element().get_child_by_name("enc").get_static_pad("src")
        encoder.add_probe(Gst.PadProbeType.BUFFER, pass_on)
        threading.Thread(target=feed, args=(source, Gst, float(fps), mode), daemon=True).start()

    factory.connect("media-configure", configure)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    if login:
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "user")
        auth = GstRtspServer.RTSPAuth()
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(*login.split(":", 1)), token)
        server.set_auth(auth)
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role("user", "media.factory.access", True)
        permissions.add_permission_for_role("user", "media.factory.construct", True)
        factory.set_permissions(permissions)
    server.get_mount_points().add_factory("/cam", factory)

    def connected(_server: Any, client: Any) -> None:
        print("client", flush=True)
        client.connect("play-request", lambda *_: print("PLAY", flush=True))

    server.connect("client-connected", connected)
    assert server.attach(None), "the port is taken"
    print("serving", flush=True)

    def obey() -> None:
        for line in sys.stdin:
            mode[0] = line.strip()

    threading.Thread(target=obey, daemon=True).start()
    GLib.MainLoop().run()


if __name__ == "__main__":
    serve(*sys.argv[1:])
