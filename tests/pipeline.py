"""The real parts, started and stopped by the tests: the shipped brokers and services, and an S3 server."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import boto3
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

ROOT = Path(__file__).parent.parent
DEVICE = "jetson-01"  # as in mosquitto/edge/mosquitto.conf
T = TypeVar("T")


def free_port() -> int:
    """Give a port of the loopback address that nobody listens on.

    Below 32768: from there on the system gives ports to outgoing connections, at any moment.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_768)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def eventually(question: Callable[[], T], timeout: float = 120) -> T:
    """Ask until the answer is true, ever more rarely, and give it; raises AssertionError after `timeout` s."""
    pause, give_up = 0.02, time.monotonic() + timeout
    while not (answer := question()):
        assert time.monotonic() < give_up, f"still {answer!r} after {timeout} s"
        time.sleep(pause)
        pause = min(1.1 * pause, 0.2)
    return answer


def make_certs(directory: Path, *parties: str, code: Path = ROOT) -> None:
    """Make certificates by the shipped script; a party is `server`, `sink`, `operator` or `device NAME`."""
    for party in parties:
        subprocess.run(
            [code / "mosquitto/certs", *party.split()], env={**os.environ, "CERTS": str(directory)}, check=True
        )


def user_properties(message: mqtt.MQTTMessage) -> dict[str, str]:
    """Give the user properties of a message."""
    return dict(getattr(message.properties, "UserProperty", []))


def listening(port: int) -> bool:
    """Tell whether somebody listens on a loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Pipeline:
    """Brokers, S3 and services on free ports, their data and logs in one directory."""

    def __init__(self, directory: Path, certs: Path) -> None:
        self.directory = directory
        self.certs = certs
        self.code = ROOT  # where the services are, in which version
        self.mosquitto = ROOT / "mosquitto"
        self.edge_port, self.cloud_port, self.sink_port, self.s3_port = (free_port() for _ in range(4))
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.clients: list[mqtt.Client] = []
        self.s3_url = f"http://127.0.0.1:{self.s3_port}"
        self.env = {
            **{
                name: os.environ[name]
                for name in ("PATH", "HOME", "LANG", "MOSQUITTO", "PLUGINS")
                if name in os.environ
            },
            "PYTHONUNBUFFERED": "1",
            "VAR": str(directory),
            "CERTS": str(certs),
            "EDGE_PORT": str(self.edge_port),
            "CLOUD_PORT": str(self.cloud_port),
            "SINK_PORT": str(self.sink_port),
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_ENDPOINT_URL_S3": self.s3_url,
            "S3_BUCKET": "faces",
            "CAMERA_NAME": "cam0",
            "SPOOL": str(directory / "spool"),
            # a picture a second, so that a short folder gives many
            "FACE_INTERVAL_MAX": "1",
            "RESEND_AFTER": "2",
            "STATUS_INTERVAL": "0.5",
        }

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # ---- processes ------------------------------------------------------------

    def start(self, name: str, *command: str | Path, **env: str) -> subprocess.Popen[bytes]:
        """Start a process; what it prints goes to NAME.log."""
        with self.log_path(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                command, env={**self.env, **env}, cwd=self.code, stdout=log, stderr=subprocess.STDOUT
            )
        return self.running[name]

    def edge(self, **env: str) -> None:
        """Start the edge's broker with the shipped conf."""
        self.start("edge", self.mosquitto / "run-local", "edge", **env)
        eventually(lambda: listening(self.edge_port))

    def cloud(self) -> None:
        """Start the cloud's broker with the shipped conf."""
        self.start("cloud", self.mosquitto / "run-local", "cloud")
        eventually(lambda: listening(self.cloud_port) and listening(self.sink_port))

    def s3_server(self) -> None:
        """Start an S3 API with nothing in it, and make the bucket by the shipped command."""
        self.start("s3", Path(sys.executable).with_name("moto_server"), "-p", str(self.s3_port))
        eventually(lambda: listening(self.s3_port))
        self.start("bucket", sys.executable, "-m", "s3sink.bucket", S3_PUBLIC="1")
        assert self.running.pop("bucket").wait(60) == 0, self.log("bucket")

    def sink(self, name: str = "s3sink", **env: str) -> None:
        """Start the S3 sink."""
        tls = {"MQTT_PORT": str(self.sink_port), "MQTT_CERTS": str(self.certs / "s3sink")}
        self.start(name, sys.executable, "-m", "s3sink", **{**tls, **env})

    def logger(self, **env: str) -> None:
        """Start the logger."""
        self.start("logger", sys.executable, "-m", "logger", MQTT_PORT=str(self.edge_port), **env)

    def detector(self, camera: str | Path, **env: str) -> subprocess.Popen[bytes]:
        """Start the detector on a camera."""
        edge = {"MQTT_PORT": str(self.edge_port), "CAMERA": str(camera)}
        return self.start("detector", sys.executable, "-m", "detector", **{**edge, **env})

    def all_but_detector(self) -> None:
        """Start both brokers, S3 and the sink, and wait until the bridge is up."""
        self.s3_server()
        self.cloud()
        self.edge()
        self.sink()
        eventually(lambda: "connected:" in self.log("s3sink"))
        self.await_bridge()

    def stop(self, name: str, with_signal: int = signal.SIGTERM) -> int:
        """Stop a process by a signal, and give its exit status."""
        process = self.running.pop(name)
        process.send_signal(with_signal)
        return process.wait(30)

    def kill(self, name: str) -> None:
        """Kill a process, as a power cut or an OOM killer would."""
        self.stop(name, signal.SIGKILL)

    def end(self) -> None:
        """End everything."""
        for client in self.clients:
            client.disconnect()
            client.loop_stop()
        for name in list(self.running):
            self.kill(name)

    def close(self) -> None:
        """End everything, and print all logs, which pytest shows when a test has failed."""
        self.end()
        for path in sorted(self.directory.glob("*.log")):
            print(f"---- {path.stem}\n{path.read_text(errors='replace')[-8000:]}")

    def log_path(self, name: str) -> Path:
        """Say where a process's output goes."""
        return self.directory / f"{name}.log"

    def log(self, name: str) -> str:
        """Give what a process has printed so far."""
        return self.log_path(name).read_text(errors="replace") if self.log_path(name).exists() else ""

    # ---- MQTT ------------------------------------------------------------

    def client(self, port: int, certs: str = "", client_id: str = "") -> mqtt.Client:
        """Connect a client of the test to a broker; `certs` names a party for mutual TLS."""
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5)
        if certs:
            party = self.certs / certs
            client.tls_set(str(party / "ca.crt"), str(party / "tls.crt"), str(party / "tls.key"))
        client.connect("localhost", port)
        client.loop_start()
        self.clients.append(client)
        eventually(client.is_connected)
        return client

    def listen(self, topic: str, port: int, certs: str = "") -> list[mqtt.MQTTMessage]:
        """Subscribe, and give the list that messages are appended to."""
        heard: list[mqtt.MQTTMessage] = []
        subscribed: list[Any] = []
        client = self.client(port, certs)
        client.on_message = lambda _client, _data, message: heard.append(message)
        client.on_subscribe = lambda _client, _data, _mid, codes, _properties: subscribed.append(codes)
        client.subscribe(topic, options=SubscribeOptions(qos=1))
        eventually(lambda: subscribed)
        return heard

    def publish(self, client: mqtt.Client, topic: str, payload: bytes, **properties: str) -> Any:
        """Publish with user properties, QoS 1, and give the reason code of the PUBACK."""
        words = Properties(PacketTypes.PUBLISH)
        words.UserProperty = list(properties.items())
        codes: list[Any] = []
        client.on_publish = lambda _client, _data, _mid, code, _properties: codes.append(code)
        client.publish(topic, payload, qos=1, properties=words)
        return eventually(lambda: codes)[0]

    def await_bridge(self) -> None:
        """Wait until the edge's broker says that its bridge is up."""
        heard = self.listen("status/bridge", self.edge_port)
        eventually(lambda: heard and heard[-1].payload == b"1")

    # ---- S3 ------------------------------------------------------------

    @cached_property
    def s3(self) -> Any:
        """An S3 client of the test's own: one for all, for making it takes 0.3 s of CPU."""
        session = boto3.Session("test", "test", region_name="us-east-1")
        return session.client("s3", endpoint_url=self.s3_url)

    def bucket_keys(self, prefix: str = "faces/") -> list[str]:
        """List the keys in the bucket."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket="faces", Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def objects(self, prefix: str = "faces/") -> Iterator[tuple[str, bytes, dict[str, str]]]:
        """Give key, body and metadata of all objects."""
        s3 = self.s3
        for key in self.bucket_keys(prefix):
            got = s3.get_object(Bucket="faces", Key=key)
            yield key, got["Body"].read(), got["Metadata"]
