"""Does what the camera saw arrive in the bucket, byte for byte, whichever part goes away for a while?"""

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.pipeline import Pipeline, eventually, user_properties


def ids(pipeline: Pipeline) -> set[str]:
    """Give the ids of all faces that the detector has cut out, from its log."""
    lines = pipeline.log("detector").splitlines()
    return {line.split("id=")[1][:16] for line in lines if line.startswith("face: ")}


def connected(pipeline: Pipeline, name: str) -> bool:
    """Tell whether a sink has connected."""
    return "connected:" in pipeline.log(name)


def stored_ids(pipeline: Pipeline, prefix: str = "faces/") -> list[str]:
    """Give the ids of the objects in the bucket."""
    return [key.split("-")[-1].split(".")[0] for key in pipeline.bucket_keys(prefix)]


def test_objects_are_the_published_crops_byte_for_byte_with_their_metadata(
    pipeline: Pipeline, folder_of: Callable[[int], Path]
) -> None:
    pipeline.all_but_detector()
    pipeline.logger()
    heard = pipeline.listen("faces/cam0", pipeline.edge_port)
    assert pipeline.detector(folder_of(12)).wait(60) == 0
    crops = {}
    for message in heard:
        words = user_properties(message)
        assert getattr(message.properties, "ContentType", "") == "image/jpeg"
        crops[words["id"]] = (message.payload, words)
    assert set(crops) == ids(pipeline)
    assert len(crops) >= 12
    objects = list(pipeline.objects())
    assert len(objects) == len(crops)
    for key, body, metadata in objects:
        payload, words = crops[metadata["id"]]
        assert body == payload
        # underscores are dropped by some servers in front of a store
        assert metadata == {name.replace("_", "-"): word for name, word in words.items()}
        day, time = words["captured_at"].split("T")
        name = f"{day.replace('-', '/')}/{time.replace(':', '')}-{words['id']}.jpg"
        assert key == f"faces/jetson-01/cam0/{name}"
    eventually(lambda: pipeline.log("logger").count("face: topic=faces/cam0 id=") == len(crops))
    assert [int(words["seq"]) for _, words in crops.values()] == list(range(1, len(crops) + 1))


def test_every_object_shows_the_face_that_its_box_names(pipeline: Pipeline, folder_of: Callable[[int], Path]) -> None:
    pipeline.all_but_detector()
    folder = folder_of(3)
    assert pipeline.detector(folder, FACE_FORMAT="png", FACE_MARGIN="0").wait(60) == 0
    frames = [frame for path in folder.iterdir() if (frame := cv2.imread(str(path))) is not None]
    objects = list(pipeline.objects())
    assert len(objects) >= 3
    for key, body, metadata in objects:
        assert key.endswith(".png")
        x, y, w, h = (int(side) for side in metadata["box"].split(","))
        picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert any(np.array_equal(picture, frame[y : y + h, x : x + w]) for frame in frames)


@pytest.mark.parametrize("name", ["edge", "cloud", "s3sink"])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_missing_when_a_part_goes_away_and_comes_back(
    pipeline: Pipeline, folder_of: Callable[[int], Path], name: str, how: signal.Signals
) -> None:
    pipeline.all_but_detector()
    folder = folder_of(30)
    detector = pipeline.detector(folder)
    eventually(lambda: len(stored_ids(pipeline)) >= 3)
    pipeline.stop(name, how)
    before = len(ids(pipeline))
    # It is away while faces come in, or while they all wait at the end of the folder
    eventually(lambda: len(ids(pipeline)) > before + 3 or len(ids(pipeline)) >= 30)
    {"edge": pipeline.edge, "cloud": pipeline.cloud, "s3sink": pipeline.sink}[name]()
    assert detector.wait(90) == 0
    assert sorted(stored_ids(pipeline)) == sorted(ids(pipeline))
    assert len(ids(pipeline)) >= 30


def test_a_detector_that_is_killed_goes_on_where_it_was(pipeline: Pipeline, folder_of: Callable[[int], Path]) -> None:
    pipeline.s3_server()
    pipeline.edge()
    pipeline.detector(folder_of(5))
    eventually(lambda: len(ids(pipeline)) >= 5)
    pipeline.kill("detector")
    cut = ids(pipeline)
    pipeline.cloud()
    pipeline.sink()
    empty = pipeline.directory / "nothing-more"
    empty.mkdir()
    cv2.imwrite(str(empty / "gray.png"), np.full((100, 100, 3), 128, np.uint8))
    assert pipeline.detector(empty).wait(60) == 0
    assert sorted(stored_ids(pipeline)) == sorted(cut)


def test_a_forged_receipt_lets_nothing_go(pipeline: Pipeline, folder_of: Callable[[int], Path]) -> None:
    pipeline.edge()
    pipeline.detector(folder_of(1))
    (id_,) = eventually(lambda: ids(pipeline))
    forger = pipeline.client(pipeline.edge_port)
    refusal = pipeline.publish(forger, "receipts/cam0", id_.encode())
    assert refusal.is_failure
    eventually(lambda: "waiting for the cloud, or for RECEIPTS=off: spooled=1" in pipeline.log("detector"))


def test_several_sinks_share_the_faces_and_one_that_dies_takes_none_along(
    pipeline: Pipeline, folder_of: Callable[[int], Path]
) -> None:
    pipeline.s3_server()
    pipeline.cloud()
    pipeline.edge()
    for name in ("s3sink-0", "s3sink-1"):
        pipeline.sink(name, MQTT_CLIENT_ID=name, MQTT_TOPIC="$share/s3sink/faces/#")
        eventually(partial(connected, pipeline, name))
    pipeline.await_bridge()
    detector = pipeline.detector(folder_of(30))
    eventually(lambda: all("stored:" in pipeline.log(name) for name in ("s3sink-0", "s3sink-1")))
    pipeline.kill("s3sink-1")
    # what the dead one was dealt waits for it, or is sent again by the detector
    eventually(lambda: len(ids(pipeline)) >= 30)
    pipeline.sink("s3sink-1", MQTT_CLIENT_ID="s3sink-1", MQTT_TOPIC="$share/s3sink/faces/#")
    assert detector.wait(90) == 0
    assert sorted(stored_ids(pipeline)) == sorted(ids(pipeline))


def test_receipts_off_lets_go_at_the_edge_brokers_puback(pipeline: Pipeline, folder_of: Callable[[int], Path]) -> None:
    pipeline.edge()
    assert pipeline.detector(folder_of(3), RECEIPTS="off").wait(60) == 0
    assert "spooled=0" in pipeline.log("detector").splitlines()[-1]


def test_each_service_keeps_a_status_that_reaches_the_cloud_and_a_last_will(
    pipeline: Pipeline, folder_of: Callable[[int], Path]
) -> None:
    pipeline.all_but_detector()
    pipeline.logger()
    fleet: dict[str, bytes] = {}
    operator = pipeline.client(pipeline.sink_port, "operator")
    operator.on_message = lambda _client, _data, message: fleet.update({message.topic: bytes(message.payload)})
    operator.subscribe("status/#", qos=1)
    pipeline.detector(folder_of(2))
    eventually(lambda: b'"state": "done"' in fleet.get("status/jetson-01/detector/cam0", b""))
    assert b'"faces": 2' in fleet["status/jetson-01/detector/cam0"]
    assert b'"spooled": 0' in fleet["status/jetson-01/detector/cam0"]
    eventually(lambda: b'"stored": 2' in fleet.get("status/s3sink/s3sink", b""))
    eventually(lambda: b'"faces": 2' in fleet.get("status/jetson-01/logger/logger", b""))
    pipeline.kill("logger")
    pipeline.kill("s3sink")
    gone = {"status/jetson-01/logger/logger", "status/s3sink/s3sink"}
    eventually(lambda: {topic for topic, last in fleet.items() if last == b'{"state": "down"}'} == gone)
    # bridge's own state is told on the edge only
    assert not [topic for topic in fleet if topic.endswith("bridge")]
