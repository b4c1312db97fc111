"""With real brokers: who hears a face, and what happens to one that the edge's broker does not take?"""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from detector.spool import Spool
from tests.mjpeg import Stream, camera_server, numbered
from tests.pipeline import DEVICE, ROOT, Pipeline, eventually, user_properties

Folder = Callable[[int], Path]
WORDS = {"captured_at": "2026-11-22T10:20:30.456Z"}
JPEG = cv2.imencode(".jpg", numbered(1))[1].tobytes()  # a few kB
NO_CAMERA = "http://127.0.0.1:1/"  # nobody listens there


def spooled(pipeline: Pipeline, *sizes: int) -> None:
    """Put faces of some sizes (bytes) into the spool, as an earlier detector left them."""
    spool = Spool(pipeline.directory / "spool" / "cam0.db", 10**9)
    for number, size in enumerate(sizes):
        spool.add(f"{number:016x}", "image/jpeg", {"id": f"{number:016x}", **WORDS}, JPEG + bytes(size))
    spool.db.close()


@pytest.fixture
def edited(pipeline: Pipeline, tmp_path: Path) -> Callable[[str, str, str], None]:
    """Edit a file of the edge's broker: what matches gives way to a text."""
    pipeline.mosquitto = tmp_path / "mosquitto"
    shutil.copytree(ROOT / "mosquitto", pipeline.mosquitto)

    def edit(file: str, pattern: str, text: str) -> None:
        path = pipeline.mosquitto / "edge" / file
        changed, times = re.subn(pattern, text, path.read_text(), flags=re.MULTILINE)
        assert times == 1
        path.write_text(changed)

    return edit


def test_who_listens_on_the_edge_hears_each_face_once_though_it_is_sent_again(
    pipeline: Pipeline, folder_of: Folder
) -> None:
    pipeline.s3_server()
    pipeline.cloud()
    pipeline.edge()
    heard = pipeline.listen("#", pipeline.edge_port)
    pipeline.await_bridge()
    pipeline.kill("cloud")
    # without cloud and sink no receipt comes, and what is missing is sent again when the bridge is back
    detector = pipeline.detector(folder_of(5))
    eventually(lambda: "waiting for the cloud" in pipeline.log("detector"))
    pipeline.cloud()
    eventually(lambda: "sending again" in pipeline.log("detector"), 60)
    pipeline.sink()
    assert detector.wait(90) == 0
    ids = [user_properties(message)["id"] for message in heard if message.topic == "faces/cam0"]
    assert sorted(ids) == sorted(set(re.findall(r"^face: id=(\w+)", pipeline.log("detector"), re.M)))
    assert not [message.topic for message in heard if message.topic.startswith("again/")]
    assert len(pipeline.bucket_keys()) == len(ids)


def test_pictures_are_made_to_fit_what_the_broker_announces(
    pipeline: Pipeline, edited: Callable[[str, str, str], None], folder_of: Folder
) -> None:
    edited("mosquitto.conf", r"^max_packet_size .*", "max_packet_size 20000")
    pipeline.all_but_detector()
    assert pipeline.detector(folder_of(3), FACE_FORMAT="png", FACE_INTERVAL="0").wait(60) == 0
    sizes = [len(body) for _, body, _ in pipeline.objects()]
    assert len(sizes) == 3
    assert max(sizes) < 20_000
    assert "broker lacks: what=MaximumPacketSize has=20000 so=" in pipeline.log("detector")


def test_a_face_that_the_broker_refuses_waits_and_is_said_ever_more_rarely(
    pipeline: Pipeline, edited: Callable[[str, str, str], None], folder_of: Folder
) -> None:
    edited("acl", r"^pattern readwrite faces/#$", "pattern read faces/#")
    edited("acl", r"^pattern write again/#$", "")
    pipeline.all_but_detector()
    pipeline.detector(folder_of(3))
    eventually(lambda: "broker does not take a face, it waits" in pipeline.log("detector"))
    eventually(lambda: "waiting for the cloud" in pipeline.log("detector"))
    counts = re.findall(r"broker does not take a face, it waits: .*times=(\d+)", pipeline.log("detector"))
    assert int(counts[-1]) < 100


def test_a_live_camera_that_is_stopped_says_down_and_one_that_is_lost_says_so(pipeline: Pipeline) -> None:
    pipeline.edge()
    said = pipeline.listen("status/detector/cam0", pipeline.edge_port)
    stream = Stream()
    with camera_server(stream) as port:
        pipeline.detector(f"http://127.0.0.1:{port}/", RECEIPTS="off")
        eventually(lambda: said and b'"camera": "up"' in said[-1].payload)
    eventually(lambda: b'"camera": "lost"' in said[-1].payload)
    status = [sys.executable, "-m", "logger", "--status"]
    env = {**pipeline.env, "MQTT_PORT": str(pipeline.edge_port)}
    shown = subprocess.run(status, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert re.search(r'detector +cam0 +"no camera"', shown.stdout)
    assert shown.returncode == 1
    pipeline.stop("detector", signal.SIGTERM)
    eventually(lambda: b'"state": "down"' in said[-1].payload)


def test_a_spooled_face_larger_than_the_broker_takes_waits_and_the_others_pass(
    pipeline: Pipeline, edited: Callable[[str, str, str], None]
) -> None:
    edited("mosquitto.conf", r"^max_packet_size .*", "max_packet_size 20000")
    pipeline.all_but_detector()
    spooled(pipeline, 30_000, 100, 100)
    pipeline.detector(NO_CAMERA)
    eventually(lambda: len(pipeline.bucket_keys()) == 2)
    eventually(lambda: pipeline.log("detector").count("spooled=1\n") >= 3)
    assert 1 <= pipeline.log("detector").count("broker does not take a face, it waits") <= 3
    # nor is what was let go still readable
    eventually(lambda: (pipeline.directory / "spool/cam0.db-wal").stat().st_size == 0)


def test_a_disk_that_does_not_let_a_face_go_ends_the_detector_in_one_line_with_status_74(pipeline: Pipeline) -> None:
    pipeline.cloud()
    pipeline.edge()
    pipeline.await_bridge()
    spooled(pipeline, 400_000)
    command = f"ulimit -f 400; exec '{sys.executable}' -m detector"  # a file of 200 or 400 kB, the log's too
    env = {"MQTT_PORT": str(pipeline.edge_port), "CAMERA": NO_CAMERA}
    detector = pipeline.start("detector", "sh", "-c", command, **env)
    eventually(lambda: "bridge: state=up" in pipeline.log("detector"))
    pipeline.publish(pipeline.client(pipeline.sink_port, "s3sink"), f"receipts/{DEVICE}/cam0", b"0" * 16)
    assert detector.wait(30) == 74, "EX_IOERR"
    last = pipeline.log("detector").splitlines()[-1]
    assert last.startswith("SPOOL=")
    assert "cam0.db" in last


def test_the_first_status_after_a_connect_tells_the_whole_truth(pipeline: Pipeline) -> None:
    pipeline.edge()
    said = pipeline.listen("status/detector/cam0", pipeline.edge_port)
    pipeline.detector(NO_CAMERA, STATUS_INTERVAL="3600")
    eventually(lambda: said)
    assert b'"camera": "lost"' in said[0].payload
