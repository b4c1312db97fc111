"""Does the detector read what it is pointed at, and get over a camera that stalls, dies and returns?"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from detector import live
from detector.camera import Camera, CameraError, Frame, open_camera
from tests.mjpeg import Stream, camera_server, number_of, numbered


class Log(list[tuple[str, dict[str, object]]]):
    """What was logged: called like the detector's `log`."""

    def __call__(self, event: str, **fields: object) -> None:
        self.append((event, fields))

    def events(self) -> list[str]:
        return [event for event, _ in self]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def open_url(log: Log) -> Iterator[Callable[..., Camera]]:
    """Opens the camera at a port, with short time-outs; closed after the test."""
    cameras = []

    def open_port(port: int, **options: float) -> Camera:
        options = {"stall": 1, "retry": 0.1, **options}
        cameras.append(open_camera(f"http://127.0.0.1:{port}/", log, **options))
        return cameras[-1]

    yield open_port
    for camera in cameras:
        camera.close()


def next_frame(camera: Camera, until: Callable[[], bool] = lambda: True, timeout: float = 20) -> Frame:
    """The next frame for which `until` holds."""
    deadline = time.monotonic() + timeout
    for frame in camera:
        if frame and until():
            return frame
        assert time.monotonic() < deadline, "no such frame in time"
    raise AssertionError("the camera ended")


def wait_for(camera: Camera, until: Callable[[], bool], timeout: float = 20) -> None:
    """Read the camera until something holds, as it should without a frame too."""
    deadline = time.monotonic() + timeout
    for _ in camera:
        if until():
            return
        assert time.monotonic() < deadline, "it did not come to that in time"


def write_video(path: Path, frames: int, fps: float = 10) -> None:
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (320, 240))
    for number in range(frames):
        video.write(numbered(number))
    video.release()


def test_every_frame_of_a_video_comes_in_order_with_its_media_time(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, 30)
    camera = open_camera(str(path), log)
    assert (camera.live, camera.frames) == (False, 30)
    before = time.time()
    frames = [frame for frame in camera if frame]
    assert [number_of(frame.image) for frame in frames] == list(range(30))
    assert before <= frames[0].at <= time.time()
    assert [frame.at - frames[0].at for frame in frames] == pytest.approx(
        [n / 10 for n in range(30)], abs=1e-3
    )
    assert log == []


def test_a_folder_is_read_by_name_and_a_broken_image_is_named_and_skipped(tmp_path: Path, log: Log) -> None:
    for number, name in enumerate(["a.png", "b.JPG", "d%03d.png"]):  # OpenCV takes % for a pattern
        cv2.imwrite(str(tmp_path / name), numbered(number))
    (tmp_path / "c.jpg").write_bytes((tmp_path / "b.JPG").read_bytes()[:40])
    (tmp_path / "notes.txt").write_text("left alone")
    cv2.imwrite(str(tmp_path / "e.png"), np.zeros((50, 40, 3), np.uint8))
    camera = open_camera(str(tmp_path), log)
    frames = [frame for frame in camera if frame]
    assert [number_of(frame.image) for frame in frames[:3]] == [0, 1, 2]
    assert [round(frame.at - frames[0].at) for frame in frames] == [0, 1, 3, 4]
    assert frames[3].image.shape == (50, 40, 3)
    assert (camera.live, camera.frames) == (False, 5)
    assert log == [("image skipped", {"file": tmp_path / "c.jpg", "reason": "cannot be read"})]


def test_what_holds_no_picture_is_refused_by_name(tmp_path: Path, log: Log) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "broken.png").write_text("no image")
    for source, reason in {
        empty: "0 bytes",
        text: "8 bytes",
        tmp_path / "folder": "no readable image",
        tmp_path / "missing.mp4": "there is no",
        "/dev/video97": "ls /dev/video",
        "97": "/dev/video97.*K3s",
    }.items():
        with pytest.raises(CameraError, match=f"CAMERA={source}: .*{reason}"):
            open_camera(str(source), log)


def test_a_slow_reader_of_a_live_camera_sees_the_present(open_url: Callable[..., Camera]) -> None:
    stream = Stream(fps=50)
    with camera_server(stream) as port:
        camera = open_url(port)
        numbers = []
        for _ in range(5):
            numbers.append(number_of(next_frame(camera).image))
            seen = len(stream.sent)
            while len(stream.sent) < seen + 20:  # a detector that takes 20 frames long
                time.sleep(0.01)
        behind = len(stream.sent) - number_of(next_frame(camera).image)
    assert camera.live
    assert numbers == sorted(set(numbers))
    assert numbers[-1] - numbers[0] > 60  # frames were skipped
    assert behind < 20


def test_a_live_frame_carries_the_time_of_its_capture(open_url: Callable[..., Camera]) -> None:
    stream = Stream()
    with camera_server(stream) as port:
        frame = next_frame(open_url(port), lambda: len(stream.sent) > 20)
        assert frame.at - stream.sent[number_of(frame.image)] == pytest.approx(0.1, abs=1)


def test_a_stalled_stream_is_said_once_and_opened_again(open_url: Callable[..., Camera], log: Log) -> None:
    stream = Stream()
    with camera_server(stream) as port:
        camera = open_url(port)
        next_frame(camera)
        assert log == []
        stream.stalled.set()
        stalled = time.monotonic()
        wait_for(camera, lambda: "camera lost" in log.events())
        assert time.monotonic() - stalled < 5
        wait_for(camera, lambda: stream.readers >= 2)
        assert log.events() == ["camera lost"]
        stream.stalled.clear()
        next_frame(camera, lambda: "camera back" in log.events())
        assert log.events() == ["camera lost", "camera back"]


def test_a_camera_that_dies_is_opened_again_when_it_returns(
    open_url: Callable[..., Camera], log: Log
) -> None:
    with camera_server(Stream()) as port:
        camera = open_url(port)
        next_frame(camera)
    wait_for(camera, lambda: "camera lost" in log.events())
    with camera_server(Stream(), port):
        next_frame(camera, lambda: "camera back" in log.events())


def test_a_camera_that_is_not_there_yet_is_waited_for(open_url: Callable[..., Camera], log: Log) -> None:
    with camera_server(Stream()) as port:
        pass  # a port where nothing listens any more
    camera = open_url(port)
    wait_for(camera, lambda: "camera lost" in log.events())
    with camera_server(Stream(), port):
        next_frame(camera)
    assert log.events()[:2] == ["camera lost", "camera back"]


def test_a_lost_camera_is_tried_at_growing_intervals(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    tries: list[float] = []

    def no_camera(_source: str, _stall: float) -> cv2.VideoCapture:
        tries.append(time.monotonic())
        return cv2.VideoCapture()

    monkeypatch.setattr(live, "open_live", no_camera)
    camera = open_camera("rtsp://nowhere/", log, retry=0.05)
    wait_for(camera, lambda: len(tries) >= 5)
    camera.close()
    pauses = np.diff(tries)
    assert all(pauses[1:] > 1.5 * pauses[:-1])


class Stuck:
    """A reader of OpenCV's that never comes back."""

    def read(self) -> None:
        time.sleep(3600)


def test_a_camera_that_hangs_for_good_is_given_up(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    monkeypatch.setattr(live, "open_live", lambda *_: Stuck())
    camera = open_camera("rtsp://u:secret@host/", log, stall=0.2, hang=1.5)
    with pytest.raises(CameraError, match=r"//\.\.\.@host/: hangs"):
        wait_for(camera, lambda: False)
    assert log.events() == ["camera lost"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_reading_thread_that_dies_ends_the_camera(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    monkeypatch.setattr(live, "open_live", lambda *_: None)
    camera = open_camera("rtsp://host/", log)
    with pytest.raises(CameraError):
        wait_for(camera, lambda: False)


def test_none_comes_while_there_is_no_frame(log: Log) -> None:
    camera = open_camera("/dev/null", log)  # a device that is no camera
    started = time.monotonic()
    assert [next(iter(camera)) for _ in range(2)] == [None, None]
    assert time.monotonic() - started < 2
    camera.close()
    assert list(camera) == []


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("rtsp://user:pass@cam/1", "rtsp://...@cam/1"),
        ("rtsp://user:p@ss/w@cam/1", "rtsp://...@cam/1"),
        ("http://cam/video?user=a&pwd=b", "http://cam/video?..."),
        ("http://cam:8080/video", "http://cam:8080/video"),
        ("/videos/me@home?.mp4", "/videos/me@home?.mp4"),
    ],
)
def test_no_password_is_shown(source: str, shown: str) -> None:
    assert live.redact(source) == shown
