"""The real parts in containers: the cloud's by the shipped cloud/up, the edge's with its shipped conf."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests import pipeline
from tests.pipeline import ROOT, free_port, make_certs

PROJECT = "faces-test"
EDGE = f"{PROJECT}-edge"  # the network of the edge; that of the cloud is PROJECT, and the way to it is the WAN
BROKER_IMAGE = os.environ.get("BROKER_IMAGE", "")
BUCKET = "faces-test"
eventually = partial(pipeline.eventually, timeout=120)  # containers take their time on a small machine
KEYS = {"AWS_ACCESS_KEY_ID": "FACESTESTKEY", "AWS_SECRET_ACCESS_KEY": "of-the-test-alone"}


def docker(*arguments: str | Path, check: bool = True) -> str:
    """Run the docker client; gives what it printed, both streams."""
    done = subprocess.run(
        ["docker", *arguments], text=True, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0 or not check, f"docker {' '.join(map(str, arguments))}: {done.stdout}"
    return done.stdout.strip()


def inspect(name: str) -> Any:
    """What Docker says of a container, None where there is none."""
    found = docker("container", "ls", "-aq", "--no-trunc", "--filter", f"name=^{name}$")
    return json.loads(docker("inspect", found))[0] if found else None


def leftovers() -> set[str]:
    """The containers, networks and volumes of the cloud's side that are there."""
    listed = [("container", "ls", "-a", "--format={{.Names}}"), ("network", "ls", "--format={{.Name}}")]
    listed.append(("volume", "ls", "--format={{.Name}}"))
    names = {(kind, name) for kind, *rest in listed for name in docker(kind, *rest).split()}
    of_the_test = (f"{PROJECT}-s3", EDGE)
    return {
        f"{kind} {name}"
        for kind, name in names
        if name.startswith(PROJECT) and (name.startswith(f"{PROJECT}-s3sink") or not name.startswith(of_the_test))
    }


class Cloud:
    """The cloud's side: the shipped cloud/up and cloud/down, with settings, names and a port of their own."""

    def __init__(self, directory: Path, project: str = PROJECT) -> None:
        self.project = project
        self.env_file = directory / "cloud.env"
        self.certs = directory / "certs"
        # a copy, for a test may change the ACL
        self.checkout = directory / "checkout"
        for folder in ("cloud", "mosquitto"):
            shutil.copytree(ROOT / folder, self.checkout / folder)
        self.settings = {
            "S3_BUCKET": BUCKET,
            "AWS_REGION": "us-east-1",
            **KEYS,
            "AWS_ENDPOINT_URL_S3": "http://s3:9000",
            "S3_PUBLIC": "1",
            "S3_EXPIRE_DAYS": "30",
            "CLOUD_PORT": str(free_port()),
            "CA_HERE": "1",
            "BROKER_IMAGE": BROKER_IMAGE,
            "SINK_IMAGE": "faces-test/s3sink",
        }

    def begin(self, script: str, *arguments: str, **changed: str) -> subprocess.Popen[str]:
        """Start cloud/up or cloud/down."""
        text = "".join(f"{name}={value}\n" for name, value in {**self.settings, **changed}.items())
        # only what is new is written: another cloud/up may be reading it
        if not self.env_file.exists() or self.env_file.read_text() != text:
            self.env_file.write_text(text)
        env = {**os.environ, "PROJECT": self.project, "CERTS": str(self.certs), "ENV_FILE": str(self.env_file)}
        return subprocess.Popen(
            [self.checkout / "cloud" / script, *arguments],
            env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def up(self, **changed: str) -> str:
        """Run cloud/up, which must succeed; gives what it printed."""
        return self._end(self.begin("up", **changed), 0)

    def refused(self, **changed: str) -> str:
        """Run cloud/up, which must fail; gives what it printed."""
        return self._end(self.begin("up", **changed), 1)

    def down(self, *arguments: str) -> str:
        """Run cloud/down."""
        return self._end(self.begin("down", *arguments), 0)

    @staticmethod
    def _end(process: subprocess.Popen[str], status: int) -> str:
        said = process.communicate(timeout=120)[0]
        assert process.returncode == status, said
        return said


class Bucket:
    """What lies in the bucket, for its owner and for everybody."""

    def __init__(self) -> None:
        self.url = "http://" + docker("port", f"{PROJECT}-s3", "9000")
        self.s3: Any = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )

    def everything(self, prefix: str = "faces/") -> list[str]:
        """All keys, over all pages; none while there is no bucket."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]

    def get(self, key: str) -> tuple[bytes, dict[str, str], str]:
        """Body, metadata and content type of an object."""
        found = self.s3.get_object(Bucket=BUCKET, Key=key)
        return found["Body"].read(), found["Metadata"], found["ContentType"]

    def public_url(self, key: str) -> str:
        """Where everybody may get an object."""
        return f"{self.url}/{BUCKET}/{key}"


class Listener:
    """A subscriber on the edge's broker that keeps the payload of every face, by its id, through restarts."""

    def __init__(self, port: int) -> None:
        self.faces: dict[str, bytes] = {}
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, "listener", protocol=mqtt.MQTTv5)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe("faces/#", qos=1)
        self.client.on_message = self.on_message
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = 3600
        self.client.connect_async("127.0.0.1", port, clean_start=False, properties=session)
        self.client.loop_start()
        eventually(self.client.is_connected)

    def on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        """Keep one face."""
        id_ = dict(getattr(message.properties, "UserProperty", [])).get("id", "")
        self.faces[id_ or hashlib.sha256(message.payload).hexdigest()[:16]] = bytes(message.payload)

    def publish(self, payloads: Iterator[bytes], topic: str = "faces/load") -> None:
        """Publish with QoS 1, and return when the broker has taken all."""
        for sent in [self.client.publish(topic, payload, qos=1) for payload in payloads]:
            sent.wait_for_publish(60)


def start_s3() -> None:
    """Start the S3 server on the network that cloud/up will use too."""
    docker("network", "create", PROJECT)
    keys = [argument for name, value in KEYS.items() for argument in ("-e", f"{name}={value}")]
    docker(
        "run", "-d", "--name", f"{PROJECT}-s3", "--network", PROJECT, "--network-alias", "s3", *keys,
        "-p", "127.0.0.1::9000", "faces-test/s3",
    )  # fmt: skip
    eventually(lambda: "starting handler: beast" in docker("logs", f"{PROJECT}-s3"))


def start_edge_broker(certs: Path, code: Path = ROOT) -> int:
    """Start the edge's network, and its broker as Kubernetes would; gives its port on this machine."""
    make_certs(certs, "device jetson-01", code=code)
    docker("network", "create", EDGE)
    docker(
        "run", "--rm", "--user", "0", "-v", f"{certs}/jetson-01:/from:ro", "-v", f"{EDGE}-certs:/to",
        "--entrypoint", "sh", BROKER_IMAGE, "-c", "cp /from/* /to && chown 1883 /to/*",
    )  # fmt: skip
    port = run_edge_broker(f"{EDGE}-broker", code / "mosquitto/edge", "--network-alias", "edge-broker")
    docker("network", "connect", PROJECT, f"{EDGE}-broker")
    return port


def run_edge_broker(name: str, conf: Path, *options: str) -> int:
    """Run an edge's broker: the conf read-only, its key for itself alone; gives its port on this machine."""
    port = free_port()  # a port that Docker chooses is another one after each start
    docker(
        "run", "-d", "--name", name, "--network", EDGE, *options,
        "-p", f"127.0.0.1:{port}:1883", "--user", "1883:1883", "--read-only", "--cap-drop", "ALL",
        "--tmpfs", "/mosquitto/log", "--restart", "unless-stopped",
        "-v", f"{conf}:/mosquitto/config:ro", "-v", f"{EDGE}-certs:/mosquitto/certs:ro",
        "-v", f"{name}-data:/mosquitto/data", BROKER_IMAGE,
    )  # fmt: skip
    eventually(partial(pipeline.listening, port))
    return port


def start_service(name: str, *options: str, tag: str = "latest") -> None:
    """Start one of our images on the edge, hardened as in Kubernetes."""
    docker(
        "run", "-d", "--name", f"{EDGE}-{name}", "--network", EDGE, "-e", "MQTT_HOST=edge-broker",
        "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp",
        *options, f"faces-test/{name}:{tag}",
    )  # fmt: skip


def remove_everything() -> None:
    """Remove every container, volume and network of the test."""
    filters = ["--filter", f"name=^{PROJECT}"]
    for kind, listing, removal in (
        ("container", ["ls", "-aq"], ["rm", "-fv"]),
        ("volume", ["ls", "-q"], ["rm"]),
        ("network", ["ls", "-q"], ["rm"]),
    ):
        if found := docker(kind, *listing, *filters).split():
            docker(kind, *removal, *found)
