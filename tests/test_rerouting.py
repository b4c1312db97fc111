"""Can a user run the brokers anywhere, route another topic, and add another device, as the documents say?"""

import shutil
from pathlib import Path

import pytest

from tests.pipeline import ROOT, Pipeline, eventually
from tests.test_sink import WORDS, picture


@pytest.fixture
def checkout(pipeline: Pipeline, tmp_path: Path) -> Path:
    """A copy of mosquitto/ to edit; the pipeline's brokers run from there."""
    copy = tmp_path / "mosquitto"
    shutil.copytree(ROOT / "mosquitto", copy)
    pipeline.mosquitto = copy
    return copy


def block(first_line: str) -> list[str]:
    """Give the lines of the page's code block that begins with a line."""
    text = (ROOT / "docs/topics-and-qos.md").read_text()
    start = text.index(f"```\n{first_line}")
    return text[start + 4 : text.index("\n```", start + 4)].splitlines()


def add(path: Path, after: str, line: str) -> None:
    """Add a line to a file, after another."""
    text = path.read_text()
    assert text.count(after) == 1
    path.write_text(text.replace(after, f"{after}\n{line}"))


@pytest.mark.parametrize("name", ["with spaces", "a&b", "a|b", "50% of #1", "back\\slash", "it's"])
def test_both_brokers_run_in_a_folder_of_any_name(certs: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(ROOT / "mosquitto", tmp_path / name / "mosquitto")
    shutil.copytree(certs, tmp_path / name / "certs")
    with Pipeline(tmp_path / name, tmp_path / name / "certs") as parts:
        parts.mosquitto = tmp_path / name / "mosquitto"
        parts.cloud()
        parts.edge()
        parts.await_bridge()


def test_another_sensor_reaches_the_cloud_without_a_line_of_python(pipeline: Pipeline, checkout: Path) -> None:
    (route,) = block("topic # out 1 sensors/")
    (local,) = block("pattern readwrite sensors/")
    write, read = block("pattern write sensors/")
    add(checkout / "edge/mosquitto.conf", "topic # out 1 faces/ faces/jetson-01/", route)
    add(checkout / "edge/acl", "pattern readwrite faces/#", local)
    add(checkout / "cloud/acl", "pattern write faces/%u/#", write)
    add(checkout / "cloud/acl", "topic readwrite status/#", read)
    pipeline.cloud()
    pipeline.edge()
    pipeline.await_bridge()
    heard = pipeline.listen("sensors/#", pipeline.sink_port, "operator")
    pipeline.publish(pipeline.client(pipeline.edge_port), "sensors/door", b"open")
    eventually(lambda: [(message.topic, message.payload) for message in heard] == [("sensors/jetson-01/door", b"open")])


def test_a_second_device_needs_a_certificate_and_its_name(pipeline: Pipeline) -> None:
    pipeline.s3_server()
    pipeline.cloud()
    pipeline.sink()
    pipeline.edge(DEVICE="jetson-02")
    pipeline.await_bridge()
    eventually(lambda: "connected:" in pipeline.log("s3sink"))
    pipeline.publish(pipeline.client(pipeline.edge_port), "faces/cam0", picture(), **WORDS)
    (key,) = eventually(pipeline.bucket_keys)
    assert key.startswith("faces/jetson-02/cam0/2026/11/22/")


def test_a_device_whose_conf_names_another_loses_nothing_and_shows_it(pipeline: Pipeline, checkout: Path) -> None:
    # the certificate is jetson-01's, the topics are jetson-02's: the ACL refuses, silently
    edge = checkout / "edge/mosquitto.conf"
    right = edge.read_text()
    edge.write_text(right.replace("jetson-01/", "jetson-02/"))
    pipeline.s3_server()
    pipeline.cloud()
    pipeline.sink()
    pipeline.edge()
    heard = pipeline.listen("faces/#", pipeline.sink_port, "s3sink")
    photos = pipeline.directory / "photos"
    photos.mkdir()
    shutil.copy(ROOT / "docs/gallery-desktop.png", photos)
    detector = pipeline.detector(photos)
    eventually(lambda: "waiting for the cloud" in pipeline.log("detector"))
    assert not heard
    edge.write_text(right)
    pipeline.stop("edge")
    pipeline.edge()
    assert detector.wait(60) == 0
    assert len(pipeline.bucket_keys()) == pipeline.log("detector").count("face: id=") > 0
