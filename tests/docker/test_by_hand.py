"""Do the commands of docs/docker.md, typed as they stand, bring a face into the bucket? Does cloud/up make the same?

Run it by tests/docker/run. The tests go down in order on one deployment, under the names that the page has; what the
page tells to edit is edited here, and the images that it tells to build are those that tests/docker/run has built.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import cv2
import numpy as np
import pytest

from tests.docker.containers import BROKER_IMAGE, KEYS, docker, eventually, inspect
from tests.mjpeg import Stream, camera_server
from tests.pipeline import ROOT

pytestmark = pytest.mark.skipif(not BROKER_IMAGE, reason="in containers: run tests/docker/run")

PAGE = (ROOT / "docs/docker.md").read_text()
S3 = "faces-by-hand-s3"
NAMES = {
    "container": re.findall(r"--name (\S+)", PAGE),
    "volume": re.findall(r"docker volume create (\S+)", PAGE),
    "network": re.findall(r"docker network create (\S+)", PAGE),
}
BROKER, SINK = "faces-cloud-broker", "faces-s3sink"
(OFFICIAL,) = set(re.findall(r"eclipse-mosquitto:\S+", PAGE))


def blocks(page: str) -> list[str]:
    """Give the commands of each code block, as a script."""
    found = re.findall(r"^```\n(\$ .*?)^```", page, re.M | re.S)
    return [re.sub(r"^(?:\$ |    )", "", block, flags=re.M) for block in found]


class Hand:
    """Whoever types the commands, in a checkout."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.edits: dict[str, str] = {}

    def type(self, script: str) -> str:
        """Type a block, with what the page tells to edit; gives what was printed."""
        # built by tests/docker/run, where a base image may be a stand-in
        script = re.sub(
            r"^docker build -f (\w+)/Dockerfile -t (\S+) \.$", r"docker tag faces-test/\1 \2", script, flags=re.M
        )
        assert "docker build" not in script
        for name, value in self.edits.items():
            script = re.sub(rf"^(export )?{name}=.*", rf"\1{name}={value}", script, flags=re.M)
        done = subprocess.run(
            ["bash", "-eu", "-c", script], cwd=self.checkout, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\n{done.stdout}"
        return done.stdout


class Portrait(Stream):
    """A camera before which somebody stands, who moves a little."""

    def __init__(self, photo: np.ndarray) -> None:
        super().__init__(fps=5)
        self.photo = photo

    def parts(self) -> Iterator[bytes]:
        while not self.gone.wait(1 / self.fps):
            self.readers += 1
            picture = np.roll(self.photo, 5 * (self.readers % 8), axis=1)
            jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
            yield b"--part\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg) + jpeg + b"\r\n"


def there() -> list[str]:
    """Give what exists of the page's names."""
    listed = {"container": ["ls", "-a", "--format={{.Names}}"]}
    names = {kind: docker(kind, *listed.get(kind, ["ls", "--format={{.Name}}"])).split() for kind in NAMES}
    return [f"{kind} {name}" for kind in NAMES for name in NAMES[kind] if name in names[kind]]


@pytest.fixture(scope="module")
def hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hand]:
    """A checkout in which nothing was made yet. Nothing is left afterwards, and no image is renamed."""
    if found := there():
        pytest.skip(f"these are somebody's, and stay: {found}")
    checkout = tmp_path_factory.mktemp("checkout")
    for folder in ("mosquitto", "cloud"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns(".env"))
    images = [OFFICIAL, *re.findall(r" -t (\S+) \.$", PAGE, re.M)]
    before = {name: docker("image", "ls", "-q", "--no-trunc", name) for name in images}
    with ExitStack() as undo:
        for name, image in before.items():
            undo.callback(docker, *(["tag", image, name] if image else ["rmi", name]), check=False)
        for kind in ("network", "volume"):
            undo.callback(docker, kind, "rm", *NAMES[kind], check=False)
        undo.callback(docker, "rm", "-fv", S3, *NAMES["container"], check=False)
        if not before[OFFICIAL]:
            docker("tag", BROKER_IMAGE, OFFICIAL)
        if not Path("/dev/video0").exists():
            # no camera here: a node of that kind, behind which there is none
            as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
            if subprocess.run([*as_root, "mknod", "-m", "660", "/dev/video0", "c", "81", "0"], check=False).returncode:
                pytest.skip("no /dev/video0, and only root can make one")
            undo.callback(subprocess.run, [*as_root, "rm", "/dev/video0"], check=True)
        yield Hand(checkout)


def gateway(network: str) -> str:
    """Give the address of this machine on a network: where its published ports are found from there."""
    return docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", network)


def start_store(hand: Hand) -> None:
    """Start an S3 server on the cloud's network, and write the settings that lead there."""
    keys = [argument for name, value in KEYS.items() for argument in ("-e", f"{name}={value}")]
    docker(
        "run", "-d", "--name", S3, "--network", "faces", "--network-alias", "s3", *keys,
        "-p", "127.0.0.1::9000", "faces-test/s3",
    )  # fmt: skip
    eventually(lambda: "starting handler: beast" in docker("logs", S3))
    settings = {"AWS_REGION": "us-east-1", **KEYS, "AWS_ENDPOINT_URL_S3": "http://s3:9000", "S3_BUCKET": "by-hand"}
    # for cloud/up, later: the names as they were typed, and the image that is there
    (names,) = re.findall(r"^\$ mosquitto/certs server (.*)$", PAGE, re.M)
    settings |= {"CLOUD_NAMES": names, "SINK_IMAGE": "faces-s3sink:dev", "CA_HERE": "1"}
    with (hand.checkout / "cloud/.env").open("a") as file:
        file.writelines(f"{name}={value}\n" for name, value in settings.items())


def keys_in_bucket() -> list[str]:
    """List the keys of the faces."""
    s3: Any = boto3.client(
        "s3", endpoint_url="http://" + docker("port", S3, "9000"), region_name="us-east-1",
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"], aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
    return [found["Key"] for found in s3.list_objects_v2(Bucket="by-hand", Prefix="faces/").get("Contents", [])]


def made(name: str) -> str:
    """Tell, a line for each thing, how a container was made: all that Docker says, but for ids, addresses, times."""
    told = inspect(name)
    config, host = told["Config"], told["HostConfig"]
    del config["Hostname"]
    config["Labels"].pop("made_from", None)  # by which cloud/up knows what it has started itself
    config["Env"] = sorted(config["Env"] or [])
    host["Binds"].sort()  # as Docker pleases
    networks = told["NetworkSettings"]["Networks"]
    aliases = {network: sorted({*its["Aliases"]} - {told["Id"][:12]}) for network, its in networks.items()}
    mounts = sorted(told["Mounts"], key=lambda mount: str(mount["Destination"]))
    how = {"image": told["Image"], "config": config, "host": host, "mounts": mounts, "networks": aliases}
    return json.dumps(how, indent=1, sort_keys=True)


def certificates(volume: str) -> str:
    """List names, owners and modes of what lies in a volume."""
    look = 'stat -c "%n %u:%g %a" /certs /certs/*'
    return docker("run", "--rm", "-v", f"{volume}:/certs:ro", "--entrypoint", "sh", BROKER_IMAGE, "-c", look)


def test_the_commands_as_they_stand_bring_a_face_into_the_bucket(hand: Hand, photo: np.ndarray) -> None:
    *scripts, down = blocks(PAGE)
    assert "cloud/down" in down
    with camera_server(Portrait(photo), address="0.0.0.0") as port:
        for script in scripts:
            printed = hand.type(script)
            if "docker network create faces\n" in script:
                start_store(hand)
            if "docker network create faces-edge\n" in script:
                hand.edits["CLOUD"] = gateway("faces-edge")
                hand.edits["CAMERA"] = f"http://{gateway('faces-edge')}:{port}/"
        (key, *_) = eventually(keys_in_bucket)
    print(printed)
    assert key.startswith("faces/jetson-01/porch/")
    assert f"stored: key={key}" in docker("logs", SINK)
    eventually(lambda: "face: topic=faces/porch" in docker("logs", "faces-logger"))
    assert inspect("faces-detector")["HostConfig"]["Devices"][0]["PathOnHost"] == "/dev/video0"


@pytest.mark.parametrize("name", NAMES["container"])
def test_what_was_typed_is_hardened_and_bounded(hand: Hand, name: str) -> None:  # noqa: ARG001 the order
    told = inspect(name)
    host = told["HostConfig"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", told["Config"]["User"])
    assert (host["ReadonlyRootfs"], host["Privileged"]) == (True, False)
    assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges"])
    assert host["Memory"] == host["MemorySwap"] > 0
    assert host["PidsLimit"] > 0
    assert set(host["LogConfig"]["Config"]) == {"max-size", "max-file"}
    assert bool(host["PortBindings"]) == (name == BROKER)
    assert bool(host["Devices"]) == (name == "faces-detector")


def test_cloud_up_makes_the_same_containers(hand: Hand) -> None:
    volumes = ("faces-cloud-broker-certs", "faces-s3sink-certs")
    typed = [*map(made, (BROKER, SINK)), *map(certificates, volumes)]
    ids = [inspect(BROKER)["Id"], inspect(SINK)["Id"]]
    print(hand.type("cloud/up"))
    for by_hand, by_up in zip(typed, [*map(made, (BROKER, SINK)), *map(certificates, volumes)], strict=True):
        assert by_up.splitlines() == by_hand.splitlines()
    assert set(ids).isdisjoint([inspect(BROKER)["Id"], inspect(SINK)["Id"]]), "cloud/up has made none"


def test_down_keeps_the_queue_and_the_spool(hand: Hand) -> None:
    hand.type(blocks(PAGE)[-1])
    assert set(there()) == {
        "network faces", "network faces-edge",
        "volume faces-data", "volume faces-edge-data", "volume faces-edge-broker-certs", "volume faces-spool",
    }  # fmt: skip
