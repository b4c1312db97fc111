"""With real brokers: who hears a face, and what happens to one that the edge's broker does not take?"""

import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mjpeg import Stream, camera_server
from tests.pipeline import ROOT, Pipeline, eventually, user_properties

Folder = Callable[[int], Path]


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
    # without a sink no receipt comes, and the oldest is sent again to ask
    detector = pipeline.detector(folder_of(5))
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
    pipeline.stop("detector", signal.SIGTERM)
    eventually(lambda: b'"state": "down"' in said[-1].payload)
