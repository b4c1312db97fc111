"""Can anybody but the device itself, by its certificate, write or read in its name?"""

import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.pipeline import Pipeline, eventually, make_certs
from tests.test_sink import picture


def refused(pipeline: Pipeline, ca: Path, party: Path | None) -> str:
    """Try to connect to the cloud's broker with somebody's certificate; gives why it was refused."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    files = (str(party / "tls.crt"), str(party / "tls.key")) if party else (None, None)
    client.tls_set(str(ca), *files)
    told: list[Any] = []
    client.on_connect = lambda _client, _data, _flags, reason, _properties: told.append(reason)
    client.on_disconnect = lambda _client, _data, _flags, reason, _properties: told.append(reason)
    try:
        client.connect("localhost", pipeline.cloud_port)
        client.loop_start()
        return str(eventually(lambda: told)[0])
    except OSError as error:
        return str(error)
    finally:
        client.loop_stop()


@pytest.fixture
def cloud(pipeline: Pipeline) -> Pipeline:
    """The cloud's broker alone."""
    pipeline.cloud()
    return pipeline


@pytest.mark.parametrize(
    "topic", ["faces/jetson-02/cam0", "receipts/jetson-01/cam0", "status/jetson-02/x/y", "a"]
)
def test_a_device_cannot_write_elsewhere(cloud: Pipeline, topic: str) -> None:
    heard = cloud.listen("faces/#", cloud.sink_port, "s3sink")
    device = cloud.client(cloud.sink_port, "jetson-01")
    assert cloud.publish(device, topic, b"x").getName() == "Not authorized"
    assert not cloud.publish(device, "faces/jetson-01/cam0", b"y").is_failure
    assert eventually(lambda: heard)[0].payload == b"y"


@pytest.mark.parametrize(
    "topic", ["faces/#", "receipts/jetson-02/#", "#", "$share/s3sink/faces/#", "status/#"]
)
def test_a_device_hears_of_its_own_receipts_only(cloud: Pipeline, topic: str) -> None:
    heard = cloud.listen(topic, cloud.sink_port, "jetson-01")
    own = cloud.listen("receipts/jetson-01/#", cloud.sink_port, "jetson-01")
    sink = cloud.client(cloud.sink_port, "s3sink")
    for device in ("jetson-02", "jetson-01"):
        cloud.publish(sink, f"receipts/{device}/cam0", b"x")
    other = cloud.client(cloud.sink_port, "jetson-02")
    cloud.publish(other, "faces/jetson-02/cam0", b"x")
    cloud.publish(other, "status/jetson-02/detector/cam0", b"x")
    eventually(lambda: own)
    assert {message.topic for message in heard} <= {"receipts/jetson-01/cam0"}


def test_the_sink_cannot_write_faces_of_a_device(cloud: Pipeline) -> None:
    sink = cloud.client(cloud.sink_port, "s3sink")
    assert cloud.publish(sink, "faces/jetson-01/cam0", b"x").getName() == "Not authorized"


def test_no_certificate_or_one_of_a_stranger_is_refused(cloud: Pipeline, certs: Path, tmp_path: Path) -> None:
    make_certs(tmp_path / "other-ca", "device jetson-01")
    ca = certs / "ca.crt"
    for party in (None, tmp_path / "other-ca" / "jetson-01"):
        assert refused(cloud, ca, party) != "Success"
    assert refused(cloud, ca, certs / "jetson-01") == "Success"


def test_a_server_with_a_device_certificate_is_no_server(certs: Path) -> None:
    purposes = {}
    for party in ("cloud-broker", "jetson-01"):
        command = ["openssl", "verify", "-purpose", "sslserver", "-CAfile", str(certs / "ca.crt")]
        shown = subprocess.run([*command, str(certs / party / "tls.crt")], capture_output=True, check=False)
        purposes[party] = shown.returncode
    assert purposes == {"cloud-broker": 0, "jetson-01": 2}


def test_the_bridge_does_not_talk_to_a_broker_of_another_ca(pipeline: Pipeline, tmp_path: Path) -> None:
    make_certs(tmp_path / "other-ca", "server", "device jetson-01", "sink")
    stranger = Pipeline(tmp_path, tmp_path / "other-ca")
    stranger.cloud()
    try:
        pipeline.edge(CLOUD_ADDRESS=f"localhost:{stranger.cloud_port}")
        eventually(lambda: "certificate verify failed" in pipeline.log("edge"))
        device = pipeline.client(pipeline.edge_port)
        pipeline.publish(device, "faces/cam0", picture())
        assert "New client connected" not in stranger.log("cloud").split("as jetson-01")[0][-200:]
    finally:
        stranger.close()


def test_only_tls_1_3_is_spoken(cloud: Pipeline, certs: Path) -> None:
    context = ssl.create_default_context(cafile=str(certs / "ca.crt"))
    context.load_cert_chain(certs / "jetson-01/tls.crt", certs / "jetson-01/tls.key")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError), socket.create_connection(("localhost", cloud.sink_port)) as plain:
        context.wrap_socket(plain, server_hostname="localhost")


def test_keys_are_readable_by_their_owner_only(certs: Path) -> None:
    keys = list(certs.rglob("*.key"))
    assert len(keys) == 6
    assert [path for path in keys if path.stat().st_mode & 0o077] == []


def test_a_device_cannot_throw_out_the_sink_by_taking_its_client_id(cloud: Pipeline) -> None:
    cloud.s3_server()
    cloud.sink()
    eventually(lambda: "connected:" in cloud.log("s3sink"))
    device = cloud.client(cloud.cloud_port, "jetson-01", client_id="s3sink")
    cloud.publish(device, "faces/jetson-01/cam0", picture())
    eventually(cloud.bucket_keys)
    assert "disconnected:" not in cloud.log("s3sink")
