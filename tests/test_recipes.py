"""Do other people's programs work with ours as docs/recipes.md says, word for word?"""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
import yaml

from tests.mjpeg import Stream, camera_server
from tests.pipeline import ROOT, Pipeline, eventually, free_port, user_properties
from tests.test_rerouting import add
from tests.test_sink import picture

PAGE = ROOT / "docs/recipes.md"


def blocks(heading: str, kind: str = "") -> list[str]:
    """Give the code blocks of one kind below a heading of the page."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"^```(\w*)\n(.*?)\n```$", section, re.M | re.S)
    return [block for named, block in found if named == kind]


def commands(heading: str) -> list[str]:
    """Give the commands below a heading, each with its further lines."""
    shown = [block for block in blocks(heading) if block.startswith("$ ")]
    return [command for block in shown for command in re.split(r"^\$ ", block, flags=re.M)[1:]]


def lines(heading: str) -> list[str]:
    """Give the conf and ACL lines below a heading, a block each."""
    return [block for block in blocks(heading) if not block.startswith("$ ")]


class Shell:
    """Where people type: a folder of its own, in which the clients of Mosquitto find the test's broker."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.folder = pipeline.directory / "typed"
        self.folder.mkdir()
        for client in ("mosquitto_pub", "mosquitto_sub"):
            (self.folder / client).write_text(f"-h localhost\n-p {pipeline.edge_port}\n")
        self.env = {**os.environ, "XDG_CONFIG_HOME": str(self.folder)}

    def run(self, command: str, typed: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, and give what it said and how it ended."""
        return subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env={**self.env, **env}, input=typed, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip

    def start(self, name: str, command: str) -> None:
        """Start a command that goes on; what it prints is the pipeline's log of that name."""
        self.pipeline.start(name, "bash", "-c", f"cd '{self.folder}' && exec {command}", **self.env)


@pytest.fixture
def checkout(pipeline: Pipeline, tmp_path: Path) -> Path:
    """A copy of mosquitto/ to edit; the pipeline's brokers run from there, and say who subscribes."""
    copy = tmp_path / "mosquitto"
    shutil.copytree(ROOT / "mosquitto", copy)
    add(copy / "edge/mosquitto.conf", "log_type notice", "log_type subscribe")
    pipeline.mosquitto = copy
    return copy


@pytest.fixture
def shell(pipeline: Pipeline, checkout: Path) -> Shell:
    typing = Shell(pipeline)
    (typing.folder / "mosquitto").symlink_to(checkout)
    return typing


# ---- the way in, and a doorbell --------------------------------------------------------------------------


def test_a_doorbell_needs_no_line_of_configuration(pipeline: Pipeline, shell: Shell) -> None:
    pipeline.all_but_detector()
    (shell.folder / "door.jpg").write_bytes(picture())
    plain, _, dated = commands("A doorbell, a phone, a script")
    for command in (plain, plain):
        assert shell.run(command).returncode == 0
    (key,) = eventually(lambda: pipeline.bucket_keys("faces/jetson-01/doorbell/undated/"))
    receipts = pipeline.listen("receipts/doorbell", pipeline.edge_port)
    assert shell.run(dated).returncode == 0
    (receipt,) = eventually(lambda: receipts)
    (late,) = set(pipeline.bucket_keys("faces/jetson-01/doorbell/")) - {key}
    assert re.fullmatch(
        rf"faces/jetson-01/doorbell/\d{{4}}/\d\d/\d\d/\d{{6}}\.000Z-{receipt.payload.decode()}.jpg", late
    )
    assert [body for _, body, _ in pipeline.objects("faces/jetson-01/doorbell/")] == [picture()] * 2


def test_a_password_is_asked_for_on_the_port_for_others(pipeline: Pipeline, shell: Shell, checkout: Path) -> None:
    (listener,) = lines("The way in")
    add(checkout / "edge/mosquitto.conf", "max_packet_size 1000000", listener)
    port = str(free_port())
    *passwords, secret = commands("The way in")
    for number, command in enumerate(passwords):
        assert shell.run(command, typed=f"secret{number}\n" * 2).returncode == 0
    if shutil.which("kubectl"):
        assert shell.run(f"{secret.strip()} --dry-run=client -o yaml").returncode == 0
    assert "secret" not in (checkout / "edge/passwords").read_text()
    pipeline.edge(LAN_PORT=port)
    heard = pipeline.listen("faces/doorbell", pipeline.edge_port)  # as before, without a password

    (shell.folder / "door.jpg").write_bytes(picture())
    ring = commands("A doorbell, a phone, a script")[1].replace("-p 1884", f"-p {port}")
    assert shell.run(ring, PASSWORD="secret0").returncode == 0
    assert eventually(lambda: heard)[0].payload == picture()
    for password in ("secret1", "", "secret"):
        assert "not authorised" in shell.run(ring, PASSWORD=password).stderr
    if "listener_allow_anonymous false" in (pipeline.directory / "edge/mosquitto.conf").read_text():  # 2.1
        assert "not authorised" in shell.run(re.sub("-u .* -t", "-t", ring)).stderr


# ---- Frigate ---------------------------------------------------------------------------------------------


def test_snapshots_of_frigate_reach_the_bucket_by_one_line(pipeline: Pipeline, shell: Shell, checkout: Path) -> None:
    route, write = lines("Frigate")
    add(checkout / "edge/mosquitto.conf", "topic # out 1 faces/ faces/jetson-01/", route)
    add(checkout / "edge/acl", "pattern readwrite faces/#", write)
    settings = yaml.safe_load(blocks("Frigate", "yaml")[0])["mqtt"]
    pipeline.all_but_detector()
    far = pipeline.listen("receipts/jetson-01/#", pipeline.sink_port, "jetson-01")
    # as frigate/comms/mqtt.py publishes: MQTT 3.1.1, retained, at the QoS of its configuration
    publish = f"mosquitto_pub -V 311 -r -q {settings['qos']} -f snapshot.jpg -t frigate"
    (shell.folder / "snapshot.jpg").write_bytes(picture())
    for topic in ("front/person/snapshot", "front/car/snapshot", "front/person"):
        assert shell.run(f"{publish}/{topic}").returncode == 0
    prefix = "faces/jetson-01/frigate/front/person/snapshot/undated/"
    (key,) = eventually(lambda: pipeline.bucket_keys(prefix))
    head = pipeline.s3.head_object(Bucket="faces", Key=key)
    assert (head["ContentType"], head["ContentLength"]) == ("image/jpeg", len(picture()))

    # Retained, it is sent again when the bridge connects, and when the sink subscribes afresh: the same object
    for part in ("edge", "s3sink"):
        pipeline.stop(part)
    pipeline.edge()
    pipeline.sink()
    near = pipeline.listen("#", pipeline.edge_port)
    pipeline.await_bridge()
    (shell.folder / "snapshot.jpg").write_bytes(picture(2))
    assert shell.run(f"{publish}/front/person/snapshot").returncode == 0
    eventually(lambda: len(pipeline.bucket_keys()) == 2)
    assert {body for _, body, _ in pipeline.objects(prefix)} == {picture(), picture(2)}
    assert not far
    assert {message.topic.split("/")[0] for message in near} == {"frigate", "status"}, "nothing comes back"


# ---- who listens -----------------------------------------------------------------------------------------


def await_subscription(pipeline: Pipeline, topic: str) -> None:
    """Wait until somebody has subscribed to a topic on the edge."""
    eventually(lambda: re.search(rf" [01] {topic}$", pipeline.log("edge"), re.M), 60)


def cut_faces(pipeline: Pipeline, folder: Path) -> list[mqtt.MQTTMessage]:
    """Have the detector cut the faces of a folder, and give them as they were published."""
    heard = pipeline.listen("faces/+", pipeline.edge_port)
    assert pipeline.detector(folder, RECEIPTS="off").wait(60) == 0
    return eventually(lambda: heard)


def test_a_shell_prints_what_is_known_and_saves_the_picture(
    pipeline: Pipeline, shell: Shell, folder_of: Callable[[int], Path]
) -> None:
    pipeline.edge()
    for name, command in zip(("watch", "save"), commands("A shell"), strict=True):
        shell.start(name, command.strip())
    await_subscription(pipeline, "faces/#")
    await_subscription(pipeline, "faces/cam0")
    face, *_ = cut_faces(pipeline, folder_of(1))
    words = "".join(f" {name}:{value}" for name, value in user_properties(face).items())
    eventually(lambda: f"faces/cam0 {len(face.payload)} bytes image/jpeg{words}\n" in pipeline.log("watch"))
    assert pipeline.running.pop("save").wait(30) == 0
    assert (shell.folder / "face.jpg").read_bytes() == face.payload


@pytest.fixture
def modules(pytestconfig: pytest.Config) -> Path:
    """The packages of recipes/package.json, fetched once; skips the test where there is no Node.js."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs Node.js: apt-get install nodejs npm")
    folder = pytestconfig.cache.mkdir("recipes")
    shutil.copy(ROOT / "tests/recipes/package.json", folder)
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=folder, check=True, timeout=240)
    return folder / "node_modules"


def test_mqtt_js_hears_faces_with_their_properties(
    pipeline: Pipeline, shell: Shell, modules: Path, folder_of: Callable[[int], Path]
) -> None:
    pipeline.edge()
    (shell.folder / "faces.js").write_text(blocks("mqtt.js and Node-RED", "js")[0])
    (shell.folder / "node_modules").symlink_to(modules)
    shell.env["MQTT_URL"] = f"mqtt://localhost:{pipeline.edge_port}"
    shell.start("mqtt.js", "node faces.js")
    await_subscription(pipeline, "faces/#")
    face, *_ = cut_faces(pipeline, folder_of(1))
    line = eventually(lambda: pipeline.log("mqtt.js").splitlines())[0]
    topic, size, kind, words = line.split(maxsplit=3)
    assert (topic, int(size), kind) == ("faces/cam0", len(face.payload), "image/jpeg")
    assert json.loads(words) == user_properties(face)


def test_node_red_writes_each_face_to_a_file(
    pipeline: Pipeline, shell: Shell, modules: Path, folder_of: Callable[[int], Path]
) -> None:
    pipeline.edge()
    flow = blocks("mqtt.js and Node-RED", "json")[0]
    (shell.folder / "flow.json").write_text(flow.replace('"1883"', f'"{pipeline.edge_port}"'))
    red = modules / ".bin/node-red"
    shell.start("node-red", f"'{red}' --userDir '{shell.folder}/red' --port {free_port()} '{shell.folder}/flow.json'")
    await_subscription(pipeline, "faces/#")
    faces = cut_faces(pipeline, folder_of(2))
    files = {shell.folder / f"{user_properties(face)['id']}.jpg": face.payload for face in faces}
    eventually(lambda: {path: path.read_bytes() for path in shell.folder.glob("*.jpg")} == files)


# ---- Home Assistant --------------------------------------------------------------------------------------


class HomeAssistant:
    """A real one, which fetches by itself what its integrations need; set up as its own front end does it."""

    def __init__(self, pipeline: Pipeline, python: Path, configuration: str) -> None:
        self.pipeline = pipeline
        self.port = free_port()
        self.token = ""
        conf = pipeline.directory / "homeassistant"
        conf.mkdir()
        base = f"http: {{server_host: 127.0.0.1, server_port: {self.port}}}\nfrontend:\nconfig:\nonboarding:\n"
        (conf / "configuration.yaml").write_text(base + configuration)
        pipeline.start("homeassistant", python.with_name("hass"), "-c", conf, **os.environ)
        eventually(self.answers, 240)
        client = {"client_id": f"http://127.0.0.1:{self.port}/"}
        owner = {"name": "a", "username": "a", "password": "a", "language": "en", **client}
        code = self.asked("onboarding/users", **owner)["auth_code"]
        grant = urllib.parse.urlencode({"grant_type": "authorization_code", "code": code, **client}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/auth/token", grant, timeout=30) as answer:
            self.token = json.load(answer)["access_token"]
        flow = self.asked("config/config_entries/flow", handler="mqtt")
        broker = {"broker": "127.0.0.1", "port": pipeline.edge_port}
        created = self.asked(f"config/config_entries/flow/{flow['flow_id']}", **broker)
        assert created["type"] == "create_entry", created

    def answers(self) -> bool:
        """Tell whether it is there, set up or not."""
        with suppress(OSError):
            return bool(self.get("onboarding"))
        return False

    def get(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        """Ask its REST API."""
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {self.token}"} if self.token else {}
        )
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/{path}", data, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())

    def asked(self, path: str, **body: Any) -> Any:
        """Ask its REST API to do something."""
        return json.loads(self.get(path, body))

    def entities(self) -> dict[str, Any]:
        """Give the images and cameras by name, as they are now."""
        states = json.loads(self.get("states"))
        return {
            state["entity_id"]: state for state in states if state["entity_id"].partition(".")[0] in ("image", "camera")
        }

    def picture(self, entity: str) -> bytes:
        """Give the picture that its front end would show; none is empty."""
        there = self.entities()[entity]["attributes"]["entity_picture"]
        with suppress(urllib.error.HTTPError):
            return self.get(there.removeprefix("/api/"))
        return b""


@pytest.fixture
def homeassistant(pytestconfig: pytest.Config) -> Path:
    """The Python of an environment with Home Assistant, made once; skips the test where this Python has none."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        pytest.skip("tests/recipes/homeassistant.txt names no Home Assistant for this Python")
    python = pytestconfig.cache.mkdir("recipes") / "homeassistant/bin/python"
    pins = ROOT / "tests/recipes/homeassistant.txt"
    uv = [sys.executable, "-m", "uv"]
    if not python.exists():
        subprocess.run([*uv, "venv", "-q", "--python", sys.executable, python.parents[1]], check=True, timeout=60)
    subprocess.run([*uv, "pip", "install", "-q", "--python", python, "-r", pins], check=True, timeout=240)
    return python


@pytest.mark.timeout(600)  # it fetches 300 MB when it is here for the first time
def test_home_assistant_shows_the_last_face(
    pipeline: Pipeline, shell: Shell, checkout: Path, homeassistant: Path, folder_of: Callable[[int], Path]
) -> None:
    (write,) = lines("Home Assistant")
    (discover,) = commands("Home Assistant")
    add(checkout / "edge/acl", "pattern readwrite faces/#", write)
    pipeline.edge()
    assert shell.run(discover).returncode == 0
    house = HomeAssistant(pipeline, homeassistant, blocks("Home Assistant", "yaml")[0])
    by_yaml, camera, discovered = "image.last_face_at_cam0", "camera.cam0", "image.last_face_at_cam0_2"
    eventually(lambda: house.entities().keys() == {by_yaml, camera, discovered}, 60)
    assert house.entities()[discovered]["state"] == "unavailable"
    with camera_server(Stream()) as port:
        pipeline.detector(f"http://127.0.0.1:{port}/", RECEIPTS="off")
        eventually(lambda: house.entities()[discovered]["state"] != "unavailable")
        pipeline.stop("detector")
    eventually(lambda: house.entities()[discovered]["state"] == "unavailable")
    assert house.entities()[by_yaml]["state"] == "unknown", "no face yet"
    *_, newest = cut_faces(pipeline, folder_of(3))
    for entity in (by_yaml, camera, discovered):
        eventually(lambda entity=entity: house.picture(entity) == newest.payload)  # type: ignore[misc]
    eventually(lambda: house.entities()[by_yaml]["state"].startswith("20"))  # when it came
