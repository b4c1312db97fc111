"""Does the sink store whatever it is sent, and send a receipt when, and only when, it has?"""

import random
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.pipeline import Pipeline, eventually

ID = "0123456789abcdef"
WORDS = {"id": ID, "camera": "cam0", "captured_at": "2026-11-22T10:20:30.456Z", "box": "1,2,3,4", "schema": "1"}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory, certs: Path) -> Iterator[Pipeline]:
    """The cloud's half, one for all tests here: each uses topics of its own."""
    with Pipeline(tmp_path_factory.mktemp("cloud"), certs) as parts:
        parts.s3_server()
        parts.cloud()
        parts.sink()
        eventually(lambda: "connected:" in parts.log("s3sink"))
        yield parts


def picture(seed: int = 1, extension: str = ".jpg") -> bytes:
    """Encode a small picture."""
    pixels = np.random.default_rng(seed).integers(0, 255, (60, 50, 3), np.uint8)
    return cv2.imencode(extension, pixels)[1].tobytes()


def send(cloud: Pipeline, topic: str, payload: bytes, **words: str) -> None:
    """Publish as the device jetson-01 would through its bridge."""
    device = cloud.client(cloud.sink_port, "jetson-01")
    code = cloud.publish(device, f"faces/jetson-01/{topic}", payload, **words)
    assert not code.is_failure, code


def stored(cloud: Pipeline, prefix: str) -> list[tuple[str, bytes, dict[str, str]]]:
    """Wait for objects under a prefix, and give them."""
    eventually(lambda: cloud.bucket_keys(prefix))
    return list(cloud.objects(prefix))


def test_face_lies_under_its_key_with_its_metadata_and_has_a_receipt(cloud: Pipeline) -> None:
    receipts = cloud.listen("receipts/jetson-01/cam1", cloud.sink_port, "jetson-01")
    send(cloud, "cam1", picture(), **WORDS)
    ((key, body, metadata),) = stored(cloud, "faces/jetson-01/cam1/")
    assert key == f"faces/jetson-01/cam1/2026/11/22/102030.456Z-{ID}.jpg"
    assert body == picture()
    assert metadata == {name.replace("_", "-"): value for name, value in WORDS.items()}
    assert eventually(lambda: receipts)[0].payload == ID.encode()
    head = cloud.s3.head_object(Bucket="faces", Key=key)
    assert head["ContentType"] == "image/jpeg"
    assert "immutable" in head["CacheControl"]


def test_same_message_twice_is_one_object_and_two_receipts(cloud: Pipeline) -> None:
    receipts = cloud.listen("receipts/jetson-01/twice", cloud.sink_port, "jetson-01")
    for _ in range(2):
        send(cloud, "twice", picture(), **WORDS)
    eventually(lambda: len(receipts) == 2)
    assert len(cloud.bucket_keys("faces/jetson-01/twice/")) == 1


def test_image_without_properties_is_stored_by_its_digest(cloud: Pipeline) -> None:
    send(cloud, "plain", picture(2, ".png"))
    ((key, body, metadata),) = stored(cloud, "faces/jetson-01/plain/")
    assert key.startswith("faces/jetson-01/plain/undated/")
    assert key.endswith(".png")
    assert body == picture(2, ".png")
    assert metadata == {}


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("empty", b""),
        ("one-byte", b"\xff"),
        ("text", b"<script>alert(1)</script>"),
        ("jpeg-bomb", b"\xff\xd8\xff\xc0\x00\x11\x08" + struct.pack(">HH", 65500, 65500) + b"\3" * 10 + b"\xff\xd9"),
        ("png-bomb", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 2**31, 2**31)),
        ("no-pixels", b"\xff\xd8\xff\xc0\x00\x11\x08" + struct.pack(">HH", 0, 5) + b"\3" * 10 + b"\xff\xd9"),
    ],
)
def test_what_is_no_image_goes_to_rejected_with_its_reason_and_a_receipt(
    cloud: Pipeline, name: str, payload: bytes
) -> None:
    receipts = cloud.listen(f"receipts/jetson-01/{name}", cloud.sink_port, "jetson-01")
    send(cloud, name, payload, **WORDS)
    ((_, body, metadata),) = stored(cloud, f"rejected/jetson-01/{name}/")
    assert body == payload
    assert metadata["reason"]
    assert metadata["id"] == ID
    assert eventually(lambda: receipts)[0].payload == ID.encode()
    assert not cloud.bucket_keys(f"faces/jetson-01/{name}/")


def test_10_mb_are_refused_by_the_broker_and_stop_nobody(cloud: Pipeline) -> None:
    device = cloud.client(cloud.sink_port, "jetson-01")
    device.publish("faces/jetson-01/huge", bytes(10_000_000), qos=1)
    eventually(lambda: not device.is_connected())
    device.loop_stop()
    send(cloud, "after-huge", picture(), **WORDS)
    assert stored(cloud, "faces/jetson-01/after-huge/")
    assert not cloud.bucket_keys("rejected/jetson-01/huge/")


@pytest.mark.parametrize(
    ("topic", "path"),
    [
        ("../../../etc", "%2E%2E/%2E%2E/%2E%2E/etc"),
        ("a//b", "a/%/b"),
        (".", "%2E"),
        ("Grüße 雪", "Gr%C3%BC%C3%9Fe%20%E9%9B%AA"),
        ("<script>alert(1)<", "%3Cscript%3Ealert%281%29%3C"),
        ("a%2Fb", "a%252Fb"),
    ],
)
def test_no_topic_names_a_key_outside_its_prefix(cloud: Pipeline, topic: str, path: str) -> None:
    send(cloud, f"odd/{topic}", picture(), **WORDS)
    keys = eventually(lambda: cloud.bucket_keys(f"faces/jetson-01/odd/{path}/"))
    assert keys == [f"faces/jetson-01/odd/{path}/2026/11/22/102030.456Z-{ID}.jpg"]


def test_a_topic_of_199_levels_and_one_of_60_kb_are_stored_below_their_device(cloud: Pipeline) -> None:
    before = set(cloud.bucket_keys("faces/jetson-01/"))
    send(cloud, "/".join(["deep"] * 190), picture(4))
    send(cloud, "l" * 60_000, picture(5))
    eventually(lambda: len(set(cloud.bucket_keys("faces/jetson-01/")) - before) == 2)
    assert all(len(key.encode()) <= 1024 for key in cloud.bucket_keys())


def test_a_topic_of_1000_levels_is_refused_by_the_broker_and_stops_nobody(cloud: Pipeline) -> None:
    device = cloud.client(cloud.sink_port, "jetson-01")
    device.publish("faces/jetson-01/" + "/".join(["x"] * 1000), picture(), qos=1)
    eventually(lambda: not device.is_connected())
    device.loop_stop()
    send(cloud, "after-deep", picture(), **WORDS)
    assert stored(cloud, "faces/jetson-01/after-deep/")


@pytest.mark.parametrize(
    "words",
    [
        {"id": "../../index.html"},
        {"id": "0123456789ABCDEF"},
        {"captured_at": "yesterday"},
        {"captured_at": "2026-02-31T00:00:00.000Z"},
        {"captured_at": "2026-11-22T10:20:30.456Z/../x"},
        {"id": ""},
    ],
)
def test_wrong_properties_make_an_undated_object(cloud: Pipeline, words: dict[str, str]) -> None:
    topic = f"wrong{random.getrandbits(40)}"
    send(cloud, topic, picture(), **{**WORDS, **words})
    ((key, _, _),) = stored(cloud, f"faces/jetson-01/{topic}/")
    assert key.startswith(f"faces/jetson-01/{topic}/undated/")


def test_hundreds_of_properties_and_enormous_ones_become_the_contracts_headers_only(cloud: Pipeline) -> None:
    odd = {"größe": "x", "a b": "x", "note": "x", "blob": "b" * 50_000, "score": " Grüße: 1 "}
    send(cloud, "props", picture(), **WORDS, **odd, **{f"n{i}": "v" * 100 for i in range(300)}, track="7" * 60_000)
    ((key, _, metadata),) = stored(cloud, "faces/jetson-01/props/")
    assert ID in key
    assert metadata.keys() == {name.replace("_", "-") for name in WORDS} | {"score", "track"}
    assert metadata["score"] == "Gr%C3%BC%C3%9Fe: 1"
    assert sum(len(name) + len(value) for name, value in metadata.items()) <= 2048


@pytest.mark.parametrize("sending", [b"17", b"", None])
def test_a_receipt_says_which_sending_it_is_for(cloud: Pipeline, sending: bytes | None) -> None:
    receipts = cloud.listen(f"receipts/jetson-01/sending{sending!r}", cloud.sink_port, "jetson-01")
    device = cloud.client(cloud.sink_port, "jetson-01")
    words = Properties(PacketTypes.PUBLISH)
    words.UserProperty = list(WORDS.items())
    if sending is not None:
        words.CorrelationData = sending
    device.publish(f"faces/jetson-01/sending{sending!r}", picture(), qos=1, properties=words)
    receipt = eventually(lambda: receipts)[0]
    assert receipt.payload == ID.encode()
    assert getattr(receipt.properties, "CorrelationData", None) == (sending or None)


@pytest.mark.parametrize(
    "captured_at", ["2026-11-22T12:20:30.456+02:00", "2026-11-22t10:20:30.456789123z", "2026-11-22 04:50:30.4569-05:30"]
)
def test_a_time_of_any_form_of_rfc_3339_is_understood(cloud: Pipeline, captured_at: str) -> None:
    topic = f"time{random.getrandbits(40)}"
    send(cloud, topic, picture(), **{**WORDS, "captured_at": captured_at})
    ((key, _, metadata),) = stored(cloud, f"faces/jetson-01/{topic}/")
    assert key == f"faces/jetson-01/{topic}/2026/11/22/102030.456Z-{ID}.jpg"
    assert metadata["captured-at"] == captured_at


def test_a_picture_under_its_hash_keeps_the_time_it_first_had(cloud: Pipeline) -> None:
    def written() -> list[str]:
        return [str(item["LastModified"]) for item in cloud.s3.list_objects_v2(**where).get("Contents", [])]

    where = {"Bucket": "faces", "Prefix": "faces/jetson-01/again/"}
    send(cloud, "again", picture())
    first = eventually(written)
    time.sleep(1.1)  # the store's clock has seconds
    for number in range(2):
        send(cloud, "again", picture())
        send(cloud, f"after-again{number}", picture())
        assert stored(cloud, f"faces/jetson-01/after-again{number}/")
    assert written() == first


def test_a_retained_picture_comes_once_and_what_clears_it_is_nothing(cloud: Pipeline) -> None:
    device = cloud.client(cloud.sink_port, "jetson-01")
    for payload in (picture(9), b""):
        device.publish("faces/jetson-01/retained", payload, qos=1, retain=True)
    device.publish("faces/jetson-01/stays", picture(9), qos=1, retain=True)
    assert stored(cloud, "faces/jetson-01/retained/")
    assert stored(cloud, "faces/jetson-01/stays/")
    cloud.stop("s3sink")
    cloud.sink()
    eventually(lambda: cloud.log("s3sink").count("reason=Success") == 2)
    send(cloud, "after-retained", picture())
    assert stored(cloud, "faces/jetson-01/after-retained/")
    assert cloud.log("s3sink").count("key=faces/jetson-01/stays") == 1
    assert not cloud.bucket_keys("rejected/jetson-01/retained/")


def test_the_sink_still_runs_after_all_this(cloud: Pipeline) -> None:
    assert cloud.running["s3sink"].poll() is None
    assert cloud.log("s3sink").count("reason=Success") == 2
