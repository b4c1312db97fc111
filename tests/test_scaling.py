"""Do sinks come and go under flow, with all stored and nothing left in the session of one that is gone?"""

import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from s3sink.__main__ import DRAIN
from s3sink.sink import LEAVE
from tests.faults import FaultyS3
from tests.pipeline import ROOT, Pipeline, eventually
from tests.test_sink import picture

SHARED = {"MQTT_TOPIC": "$share/s3sink/faces/#", "S3_UPLOADS": "1"}  # the broker keeps all but a window of 4
IN_A_HURRY = "from s3sink import __main__, sink; sink.LEAVE = 2; __main__.main()"


class Cloud:
    """The shipped broker, sinks as a StatefulSet starts them, and a store that takes 0.05 s an answer."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        pipeline.s3_server()
        pipeline.cloud()
        self.store = FaultyS3(pipeline.s3_port)
        self.store.delay = 0.05
        self.device = pipeline.client(pipeline.cloud_port, "jetson-01")
        self.sent = 0
        self.status: dict[str, bytes] = {}
        operator = pipeline.client(pipeline.sink_port, "operator")
        operator.on_message = lambda _client, _data, said: self.status.update({said.topic[14:]: bytes(said.payload)})
        operator.subscribe("status/s3sink/#", qos=1)

    def start(self, *names: str, program: str = "") -> None:
        """Start sinks, and wait until each has said that it is up."""
        for name in names:
            self.status.pop(name, None)
            tls = {"MQTT_PORT": str(self.pipeline.sink_port), "MQTT_CERTS": str(self.pipeline.certs / "s3sink")}
            env = {**SHARED, **tls, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.store.port}"}
            command = ["-c", program] if program else ["-m", "s3sink"]
            self.pipeline.start(name, sys.executable, *command, MQTT_CLIENT_ID=name, **env)
        eventually(lambda: all(b'"up"' in self.status.get(name, b"") for name in names))

    def stop(self, *names: str) -> None:
        """Scale down: SIGTERM to all of them at once, and wait until they have ended."""
        for name in names:
            self.pipeline.running[name].terminate()
        for name in names:
            assert self.pipeline.running.pop(name).wait(120) == 0

    def publish(self, count: int) -> None:
        """Send pictures as the device would: a doorbell's, without an id, and faces with one, in turns."""
        for _ in range(count):
            words = Properties(PacketTypes.PUBLISH)
            if self.sent % 2:
                at = f"2026-11-22T10:20:30.{self.sent % 1000:03d}Z"
                words.UserProperty = [("id", f"{self.sent:016x}"), ("captured_at", at)]
            unlike = picture() + self.sent.to_bytes(4, "big")
            self.sent += 1
            sent = self.device.publish("faces/jetson-01/door", unlike, qos=1, properties=words)
            sent.wait_for_publish(30)

    def stored(self, name: str) -> int:
        """How many a sink has stored."""
        return self.pipeline.log(name).count("stored: key=")

    def all_stored(self) -> None:
        """Each picture that the broker has taken comes to lie in the bucket."""
        eventually(lambda: sum(map(self.stored, self.status)) >= self.sent, 90)
        eventually(lambda: len(self.pipeline.bucket_keys("faces/jetson-01/")) == self.sent)

    def has_session(self, name: str) -> bool:
        """Ask the broker whether it keeps a session of that name."""
        flags: list[bool] = []
        client = mqtt.Client(CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5)
        party = self.pipeline.certs / "s3sink"
        client.tls_set(str(party / "ca.crt"), str(party / "tls.crt"), str(party / "tls.key"))
        client.on_connect = lambda _client, _data, told, *_: flags.append(told.session_present)
        client.connect("localhost", self.pipeline.sink_port, clean_start=False)
        client.loop_start()
        eventually(lambda: flags)
        client.disconnect()
        client.loop_stop()
        return flags[0]


@pytest.fixture
def cloud(pipeline: Pipeline) -> Iterator[Cloud]:
    cloud = Cloud(pipeline)
    yield cloud
    cloud.store.close()


def test_three_sinks_become_one_and_three_again(cloud: Cloud) -> None:
    cloud.start("s3sink-0", "s3sink-1", "s3sink-2")
    with ThreadPoolExecutor() as pool:
        cloud.publish(120)
        before = {name: cloud.stored(name) for name in ("s3sink-1", "s3sink-2")}
        flow = pool.submit(cloud.publish, 120)
        cloud.stop("s3sink-1", "s3sink-2")
        for name, count in before.items():
            assert "left for good" in cloud.pipeline.log(name)
            assert cloud.stored(name) > count + 4, "it had more than its window"
            assert not cloud.has_session(name)
            assert not cloud.status[name], "its last word is taken back"
        flow.result()
        cloud.all_stored()
        flow = pool.submit(cloud.publish, 60)
        cloud.start("s3sink-1", "s3sink-2")
        flow.result()
    cloud.publish(30)
    cloud.all_stored()
    for name, count in before.items():
        assert cloud.stored(name) > count


def test_sinks_restart_one_at_a_time(cloud: Cloud) -> None:
    names = ("s3sink-0", "s3sink-1", "s3sink-2")
    cloud.start(*names)
    with ThreadPoolExecutor() as pool:
        for name in reversed(names):
            flow = pool.submit(cloud.publish, 60)
            cloud.stop(name)
            flow.result()
            cloud.start(name)
    cloud.all_stored()
    assert "left for good" not in cloud.pipeline.log("s3sink-0"), "its session keeps what comes meanwhile"


def test_what_cannot_be_stored_in_time_waits_for_the_return(cloud: Cloud) -> None:
    cloud.start("s3sink-2")
    cloud.start("s3sink-10", program=IN_A_HURRY)
    cloud.store.fault = "AccessDenied"
    cloud.publish(60)
    cloud.stop("s3sink-10")
    assert "more was dealt to this sink than it could store, it does when it is back: left=" in cloud.pipeline.log(
        "s3sink-10"
    )
    cloud.store.heal()
    cloud.start("s3sink-10")
    cloud.all_stored()


def test_kubernetes_gives_a_sink_the_time_that_it_takes_to_leave() -> None:
    (grace,) = re.findall(r"terminationGracePeriodSeconds: (\d+)", (ROOT / "k8s/cloud/s3sink.yaml").read_text())
    assert int(grace) > LEAVE + DRAIN + 10
