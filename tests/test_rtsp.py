"""Does a camera that speaks RTSP open, tell when each frame was captured, and say why where it does not?"""

import os
import time
from collections.abc import Callable, Iterator

import cv2
import pytest

from detector import live
from detector.camera import Camera, open_camera
from tests.pipeline import free_port
from tests.rtsp import missing, rtsp_server, stamp_of
from tests.test_camera import Log, next_frame, wait_for

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    return Log(monkeypatch)


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Camera]]:
    """Opens a camera; closed after the test."""
    monkeypatch.delenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", raising=False)  # of another test
    monkeypatch.setattr(live, "RETRY", 0.1)
    cameras: list[Camera] = []

    def look_at(url: str, stall: int = 4) -> Camera:
        monkeypatch.setattr(live, "STALL", stall)
        cameras.append(open_camera(url))
        return cameras[-1]

    yield look_at
    for camera in cameras:
        camera.close()


def slower() -> float:
    """By how much encoding and decoding take longer than alone, as others use the processors, too."""
    return max(1, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.mark.parametrize(("fps", "codec"), [(25, "h264"), (5, "h264"), (1, "h264"), (25, "h265"), (5, "mjpeg")])
def test_a_frame_carries_the_time_of_its_capture(fps: int, codec: str, look: Callable[..., Camera]) -> None:
    port = free_port()
    with rtsp_server(port, fps, codec=codec):
        camera = look(f" RTSP://127.0.0.1:{port}/cam\n")
        errors = [(frame := next_frame(camera)).at - stamp_of(frame.image) for _ in range(min(2 * fps, 10))]
    assert max(map(abs, errors)) < max(0.15 * slower(), 1 / fps), errors


def test_a_stall_is_opened_again_and_gives_no_old_frames(look: Callable[..., Camera], log: Log) -> None:
    port = free_port()
    with rtsp_server(port, 5, gop=5) as server:
        camera = look(f"rtsp://127.0.0.1:{port}/cam")
        next_frame(camera)
        server.tell("freeze")
        frozen = time.monotonic()
        wait_for(camera, lambda: "camera lost" in log.events())
        assert time.monotonic() - frozen < 5 * slower()  # FFmpeg alone takes up to 15 s, as RTCP goes on
        wait_for(camera, lambda: server.count("client") >= 2)
        server.tell("go on")
        frame = next_frame(camera)
        assert abs(frame.at - stamp_of(frame.image)) < 0.2 * slower()
        assert log.events() == ["camera up", "camera lost", "camera back"]


def test_waiting_for_a_keyframe_is_not_loss(look: Callable[..., Camera], log: Log) -> None:
    port = free_port()
    with rtsp_server(port, 5, gop=5) as server:
        other = cv2.VideoCapture(f"rtsp://127.0.0.1:{port}/cam", cv2.CAP_FFMPEG)  # or the stream would begin anew
        assert other.grab()
        server.tell("withhold")
        camera = look(f"rtsp://127.0.0.1:{port}/cam", stall=1)
        viewers = server.count("client")
        began = time.monotonic()
        wait_for(camera, lambda: time.monotonic() - began > 4)
        server.tell("go on")
        next_frame(camera)
        assert server.count("client") <= viewers + 1
        assert log.events() == ["camera up"]


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ("u:wrong@127.0.0.1:{port}/cam", "401 Unauthorized"),
        ("u:secret@127.0.0.1:{port}/nothing", "404 Not Found"),
        ("u:sec#ret@127.0.0.1:{port}/cam", "%23"),
        ("u:secret@127.0.0.1:1/cam", "connection refused"),
        ("u:secret@no-such-host.invalid/cam", "name unknown"),
    ],
)
def test_why_a_camera_does_not_open_is_said(rest: str, reason: str, look: Callable[..., Camera], log: Log) -> None:
    port = free_port()
    with rtsp_server(port, login="u:secret"):
        camera = look(f"rtsp://{rest.format(port=port)}")
        wait_for(camera, lambda: "camera does not open" in log.events())
    assert reason in camera.state["camera_reason"]
    assert "secret" not in str(log)
