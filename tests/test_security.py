"""Can anybody but the device itself, by its certificate, write or read in its name?"""

import socket
import ssl
import subprocess
import sys
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


@pytest.mark.parametrize("topic", ["faces/jetson-02/cam0", "receipts/jetson-01/cam0", "status/jetson-02/x/y", "a"])
def test_a_device_cannot_write_elsewhere(cloud: Pipeline, topic: str) -> None:
    heard = cloud.listen("faces/#", cloud.sink_port, "s3sink")
    device = cloud.client(cloud.sink_port, "jetson-01")
    assert cloud.publish(device, topic, b"x").getName() == "Not authorized"
    assert not cloud.publish(device, "faces/jetson-01/cam0", b"y").is_failure
    assert eventually(lambda: heard)[0].payload == b"y"


@pytest.mark.parametrize("topic", ["faces/#", "receipts/jetson-02/#", "#", "$share/s3sink/faces/#", "status/#"])
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


def test_a_sink_hears_of_faces_alone(cloud: Pipeline) -> None:
    heard = cloud.listen("#", cloud.sink_port, "s3sink")
    operator = cloud.client(cloud.sink_port, "operator")
    for topic in ("jetson-01/detector/cam0", "s3sink", "s3sink/a/b", "s3sink/s3sink-1"):
        assert not cloud.publish(operator, f"status/{topic}", b"x").is_failure
    cloud.publish(cloud.client(cloud.sink_port, "jetson-01"), "faces/jetson-01/cam0", b"x")
    assert eventually(lambda: heard)[0].topic == "faces/jetson-01/cam0"


def test_the_operator_clears_the_status_of_a_device_that_is_gone(cloud: Pipeline) -> None:
    device = cloud.client(cloud.sink_port, "jetson-01")
    device.publish("status/jetson-01/detector/cam0", b"up", qos=1, retain=True).wait_for_publish(10)
    operator = cloud.client(cloud.sink_port, "operator")
    operator.publish("status/jetson-01/detector/cam0", b"", qos=1, retain=True).wait_for_publish(10)
    heard = cloud.listen("status/#", cloud.sink_port, "operator")
    cloud.publish(operator, "status/jetson-02/x/y", b"the last")
    assert eventually(lambda: heard)[0].payload == b"the last"


@pytest.mark.parametrize("user", ["", "home-assistant"])
def test_nobody_on_the_edge_forges_a_receipt_switches_a_camera_or_hears_a_face_again(
    pipeline: Pipeline, user: str
) -> None:
    pipeline.cloud()
    pipeline.edge()
    pipeline.await_bridge()
    sink = pipeline.client(pipeline.sink_port, "s3sink")
    stored = pipeline.listen("faces/#", pipeline.sink_port, "s3sink")
    heard = pipeline.listen("#", pipeline.edge_port)
    anybody = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    anybody.username_pw_set(user or None)
    anybody.connect("localhost", pipeline.edge_port)
    anybody.loop_start()
    pipeline.clients.append(anybody)
    for topic in ("receipts/cam0", "control/cam0", "status/bridge", "status/bridge/x/y", "elsewhere"):
        assert pipeline.publish(anybody, topic, b"forged").getName() == "Not authorized", topic
    for topic in ("again/cam0", "faces/cam0", "status/detector/cam0"):
        assert not pipeline.publish(anybody, topic, topic.encode()).is_failure, topic
    # the bridge is subject to none of it: it reads again/#, and writes receipts/# and status/bridge
    eventually(lambda: [message.payload for message in stored] == [b"again/cam0", b"faces/cam0"])
    assert {message.topic for message in stored} == {"faces/jetson-01/cam0"}
    pipeline.publish(sink, "receipts/jetson-01/cam0", b"stored")
    eventually(lambda: "receipts/cam0" in [message.topic for message in heard])
    said = {message.topic: message.payload for message in heard if message.topic != "status/logger/logger"}
    assert said == {
        "status/bridge": b"1",
        "faces/cam0": b"faces/cam0",
        "status/detector/cam0": b"status/detector/cam0",
        "receipts/cam0": b"stored",
    }


HOLD = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
held = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(1100)]
print("held", flush=True)
sys.stdin.read()
"""


def test_1100_connections_without_a_certificate_lock_nobody_out(cloud: Pipeline) -> None:
    # in a process of its own: paho cannot be in one with that many files
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(cloud.cloud_port)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as holder:  # fmt: skip
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        device = cloud.client(cloud.cloud_port, "jetson-01")
        cloud.client(cloud.sink_port, "s3sink")
        assert not cloud.publish(device, "faces/jetson-01/cam0", b"x").is_failure
        holder.communicate()


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
