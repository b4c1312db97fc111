"""Does the detector read what it is pointed at, and get over a camera that stalls, dies and returns?"""

import errno
import os
import re
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from detector import camera as files
from detector import live
from detector.camera import Camera, open_camera
from detector.live import CameraError, Frame
from detector.reasons import redact, why
from tests.mjpeg import Stream, camera_server, number_of, numbered


class Log(list[tuple[str, dict[str, object]]]):
    """What was logged: takes the place of `service.log`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        monkeypatch.setattr(files, "log", self)
        monkeypatch.setattr(live, "log", self)

    def __call__(self, event: str, **fields: object) -> None:
        self.append((event, fields))

    def events(self) -> list[str]:
        return [event for event, _ in self]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    return Log(monkeypatch)


@pytest.fixture
def open_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Camera]]:
    """Opens the camera at a port, with short time-outs; closed after the test."""
    monkeypatch.delenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", raising=False)  # of another test
    monkeypatch.setattr(live, "STALL", 1)
    monkeypatch.setattr(live, "RETRY", 0.1)
    cameras = []

    def open_port(port: int, path: str = "") -> Camera:
        cameras.append(open_camera(f"http://127.0.0.1:{port}/{path}"))
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
    camera = open_camera(str(path))
    assert (camera.live, camera.state) == (False, {})
    frames = [frame for frame in camera if frame]
    assert [number_of(frame.image) for frame in frames] == list(range(30))
    assert frames[0].at == pytest.approx(path.stat().st_mtime - 3, abs=0.01)
    assert [frame.at - frames[0].at for frame in frames] == pytest.approx([n / 10 for n in range(30)], abs=1e-3)
    assert log.events() == ["video"]


def test_a_folder_is_read_by_name_and_a_broken_image_is_named_and_skipped(tmp_path: Path, log: Log) -> None:
    for number, name in enumerate(["a.png", "b.JPG", "d%03d.png"]):  # OpenCV takes % for a pattern
        cv2.imwrite(str(tmp_path / name), numbered(number))
    (tmp_path / "c.jpg").write_bytes((tmp_path / "b.JPG").read_bytes()[:40])
    (tmp_path / "notes.txt").write_text("left alone")
    cv2.imwrite(str(tmp_path / "e.png"), np.zeros((50, 40, 3), np.uint8))
    camera = open_camera(str(tmp_path))
    frames = [frame for frame in camera if frame]
    assert [number_of(frame.image) for frame in frames[:3]] == [0, 1, 2]
    assert [round(frame.at - frames[0].at) for frame in frames] == [0, 1, 3, 4]
    assert frames[3].image.shape == (50, 40, 3)
    assert not camera.live
    assert frames[-1].at < time.time()
    assert log == [("image skipped", {"file": tmp_path / "c.jpg", "reason": "cannot be read"})]


def test_what_holds_no_picture_is_refused_by_name(tmp_path: Path) -> None:
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
            open_camera(str(source))


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
        assert log.events() == ["camera up"]
        stream.stalled.set()
        stalled = time.monotonic()
        wait_for(camera, lambda: "camera lost" in log.events())
        assert time.monotonic() - stalled < 5
        wait_for(camera, lambda: stream.readers >= 2)
        assert log.events() == ["camera up", "camera lost"]
        stream.stalled.clear()
        next_frame(camera, lambda: "camera back" in log.events())
        assert log.events()[:2] == ["camera up", "camera lost"]


def test_a_camera_that_dies_is_opened_again_when_it_returns(open_url: Callable[..., Camera], log: Log) -> None:
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
    wait_for(camera, lambda: "camera does not open" in log.events())
    assert camera.state["camera"] == "lost"
    assert "refused" in camera.state["camera_reason"]
    with camera_server(Stream(), port):
        next_frame(camera)
    assert camera.state["camera"] == "up"
    assert "camera lost" not in log.events(), "only what was there can be lost"


def test_a_lost_camera_is_tried_at_growing_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []

    def no_camera(*_: object) -> cv2.VideoCapture:
        tries.append(time.monotonic())
        return cv2.VideoCapture()

    monkeypatch.setattr(live, "open_url", no_camera)
    monkeypatch.setattr(live, "why", lambda _url: "no answer")
    monkeypatch.setattr(live, "RETRY", 0.3)
    camera = open_camera("rtsp://nowhere/")
    wait_for(camera, lambda: len(tries) >= 5)
    camera.close()
    pauses = np.diff(tries)
    assert all(pauses[1:] > 1.2 * pauses[:-1])


class Stuck:
    """A reader of OpenCV's that never comes back."""

    def get(self, _property: int) -> float:
        return 0

    def grab(self) -> None:
        time.sleep(3600)


def test_a_camera_that_hangs_for_good_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "open_url", lambda *_: Stuck())
    monkeypatch.setattr(live, "HANG", 1.5)
    camera = open_camera("rtsp://u:secret@host/")
    with pytest.raises(CameraError, match=r"//\.\.\.@host/: hangs") as error:
        wait_for(camera, lambda: False)
    assert error.value.status == 66


def test_none_comes_while_there_is_no_frame() -> None:
    camera = open_camera("/dev/null")  # a device that is no camera
    started = time.monotonic()
    assert [next(iter(camera)) for _ in range(2)] == [None, None]
    assert time.monotonic() - started < 2
    camera.close()
    assert camera.state["camera"] == "closed"


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("rtsp://user:pass@cam/1", "rtsp://...@cam/1"),
        ("rtsp://user:p@ss/w@cam/1", "rtsp://...@cam/1"),
        ("http://cam/video?user=a&pwd=b", "http://cam/video?..."),
        ("http://cam:8080/video", "http://cam:8080/video"),
        ("/videos/me@home?.mp4", "/videos/me@home?.mp4"),
        ("RTSPS://user:pass@cam/1", "RTSPS://...@cam/1"),
        ("rtsp://cam/user=admin_password=secret_channel=1_stream=0.sdp\n", "rtsp://cam/user=..."),
        ("rtsp://user:pa\nss@cam/1\n", "rtsp://...@cam/1"),
        ("rstp://user:pass@cam/1", "rstp://...@cam/1"),
    ],
)
def test_no_password_is_shown(source: str, shown: str) -> None:
    assert redact(source) == shown


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EBUSY, "busy: another program"),
        (errno.EACCES, "not permitted"),
        (errno.EPERM, "not permitted"),
        (errno.ENOTTY, "no capture node"),
        (errno.EINVAL, "no capture node"),
        (errno.ENODEV, "is it plugged in"),
        (0, "no picture comes"),
    ],
)
def test_the_kernel_s_words_for_a_device_become_what_to_do(
    number: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ioctl(*_: object) -> None:
        if number:
            raise OSError(number, os.strerror(number))

    assert why("/dev/video97").startswith("not there")
    monkeypatch.setattr("fcntl.ioctl", ioctl)
    assert reason in why("/dev/null")


def test_what_cannot_be_read_is_skipped_and_counted(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, 30)
    data = path.read_bytes()
    begins = [at.start() for at in re.finditer(b"\x00\x00\x01\xb6", data)]  # MPEG-4's start of a picture
    assert len(begins) == 30
    for begin, end in ((begins[0], begins[1]), (begins[14], begins[15]), (begins[15], begins[16])):
        data = data[:begin] + bytes(end - begin) + data[end:]
    path.write_bytes(data)
    frames = [frame for frame in open_camera(str(path)) if frame]
    skipped = [fields["frames"] for event, fields in log if event == "frames skipped"]
    assert number_of(frames[-1].image) == 29
    assert skipped == [30 - len(frames)]
    assert "video ended early" not in log.events()


def test_a_file_that_says_when_it_was_made_starts_then(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, 5)
    data = bytearray(path.read_bytes())
    at = data.index(b"mvhd") + 8
    data[at : at + 4] = (2082844800 + 1_600_000_000).to_bytes(4, "big")
    path.write_bytes(data)
    first = next(iter(open_camera(str(path))))
    assert first is not None
    assert first.at == 1_600_000_000
    assert log[0][1]["by"] == "creation time"


@pytest.mark.parametrize("size", [2**63 + 5, 2**64 - 1])
def test_a_box_of_an_absurd_size_does_not_refuse_the_film(size: int, tmp_path: Path, log: Log) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, 5)
    path.write_bytes(b"\0\0\0\1free" + size.to_bytes(8, "big") + path.read_bytes())
    assert len(list(open_camera(str(path)))) == 5
    assert log[0][1]["by"] == "file's time less its length"


def test_a_relative_name_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "clip.mp4", 5)
    (tmp_path / "clip.mp4").rename(tmp_path / "a:b.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(list(open_camera("a:b.mp4"))) == 5


def test_positions_in_an_mkv_count_from_its_first_time_stamp(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "clip.mkv"
    write_video(path, 10)
    data = bytearray(path.read_bytes())
    cluster = data.index(b"\xe7\x81\x00", data.index(b"\x1f\x43\xb6\x75"))  # its Timestamp is 0
    data[cluster + 2] = 200  # ms
    duration = data.index(b"\x44\x89\x88") + 3
    data[duration : duration + 8] = struct.pack(">d", 1200)
    path.write_bytes(data)
    frames = [frame for frame in open_camera(str(path)) if frame]
    assert frames[0].at == pytest.approx(path.stat().st_mtime - 1, abs=0.05)
    assert log.events() == ["video"]


def test_a_film_that_does_not_tell_its_length_does_not_end_in_the_future(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    write_video(path, 10)
    data = bytearray(path.read_bytes())
    duration = data.index(b"\x44\x89\x88")
    data[duration : duration + 11] = b"\xec\x89" + bytes(9)  # an element of nothing, as long
    path.write_bytes(data)
    frames = [frame for frame in open_camera(str(path)) if frame]
    assert len(frames) == 10
    assert frames[-1].at == pytest.approx(path.stat().st_mtime, abs=0.05)


def test_a_tiff_is_turned_upright(tmp_path: Path) -> None:
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    # width, height, bits, uncompressed, 0 is black, offset, orientation, samples, rows, bytes
    tags = {256: 4, 257: 3, 258: 8, 259: 1, 262: 1, 273: 134, 274: 3, 277: 1, 278: 3, 279: 12}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    (tmp_path / "a.tiff").write_bytes(header + entries + bytes(4) + gray.tobytes())
    frame = next(iter(open_camera(str(tmp_path))))
    assert frame is not None
    assert np.array_equal(frame.image[..., 0], cv2.rotate(gray, cv2.ROTATE_180))


def test_one_picture_over_the_limit_of_opencv_is_skipped_by_name(tmp_path: Path, log: Log) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), numbered(1))
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = (40_000).to_bytes(4, "big") * 2  # its header claims 1.6 gigapixels
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "huge.png").write_bytes(data)
    assert len(list(open_camera(str(tmp_path)))) == 1
    assert [fields["file"] for event, fields in log if event == "image skipped"] == [tmp_path / "huge.png"]


def test_a_url_of_one_picture_is_polled_quietly(
    open_url: Callable[..., Camera], log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "RETRY", 1)
    asked: list[float] = []

    class Snapshot(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(time.monotonic())
            self.send_response(200)
            jpeg = cv2.imencode(".jpg", numbered(len(asked)))[1].tobytes()
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(jpeg)))
            self.end_headers()
            self.wfile.write(jpeg)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Snapshot) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        camera = open_url(server.server_address[1], "snapshot.jpg")
        numbers = [number_of(next_frame(camera).image) for _ in range(3)]
        server.shutdown()
    assert numbers == sorted(set(numbers))
    assert log.events() == ["camera up"]
    assert asked[2] - asked[0] > 1.5, "once a second"
