"""Do images of another machine pass the clip through the whole pipeline, and see in it what this machine sees?

`make test-arm64` runs it. Under qemu it tells what is computed, and nothing about how long it takes on a board.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import pytest

import service
from tests.clip import make_clip
from tests.docker.containers import (
    BROKER_IMAGE,
    EDGE,
    Bucket,
    Cloud,
    docker,
    remove_everything,
    start_edge_broker,
    start_s3,
    start_service,
)
from tests.pipeline import ROOT


class Face(NamedTuple):
    """What lies in the bucket."""

    seq: int
    track: int
    box: list[int]
    body: bytes


PLATFORM = os.environ.get("PLATFORM", "")
MACHINE = {"linux/arm64": "aarch64", "linux/amd64": "x86_64"}
pytestmark = [
    pytest.mark.skipif(not PLATFORM or not BROKER_IMAGE, reason="on another machine's images: make test-arm64"),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module", autouse=True)
def clean() -> Iterator[None]:
    """Nothing is there before, and nothing is left afterwards."""
    remove_everything()
    yield
    for name in docker("container", "ls", "-a", "--filter", f"name=^{EDGE}", "--format={{.Names}}").split():
        print(f"---- {name}\n{docker('logs', '--tail', '30', name)}")
    remove_everything()


@pytest.mark.parametrize("name", ["detector", "logger", "s3sink"])
def test_an_image_is_of_the_platform_and_says_its_version(name: str) -> None:
    tell = f"import platform, {name}.__main__; print(platform.machine())"
    assert docker("run", "--rm", f"faces-test/{name}", "python", "-c", tell).splitlines()[-1] == MACHINE[PLATFORM]
    label = '{{index .Config.Labels "org.opencontainers.image.version"}}'
    assert docker("image", "inspect", "-f", label, f"faces-test/{name}") == service.VERSION


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clip of two people."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    make_clip(path, seconds=8)
    return path


@pytest.fixture(scope="module")
def edge_port(tmp_path_factory: pytest.TempPathFactory) -> int:
    """All but the detector, in containers of the platform; gives the port of the edge's broker."""
    start_s3()
    cloud = Cloud(tmp_path_factory.mktemp("cloud"))
    cloud.up()
    port = start_edge_broker(cloud.certs)
    start_service("logger")
    return port


def watch(camera: Path, name: str, edge_port: int, spool: Path, model: str) -> tuple[list[Face], list[Face]]:
    """Have the image's detector watch, and this machine's; gives what the bucket has of each."""
    options = ["-v", f"{camera}:/camera{camera.suffix}:ro", "-v", f"{EDGE}-spool-{name}:/spool"]
    options += ["-e", f"CAMERA=/camera{camera.suffix}", "-e", f"CAMERA_NAME={name}"]
    options += ["-v", f"{model}:/model.onnx:ro", "-e", "FACE_MODEL=/model.onnx"] if model else ["-e", "FACE_MODEL=haar"]
    start_service("detector", *options)
    here = {"CAMERA": str(camera), "CAMERA_NAME": f"{name}-here", "MQTT_PORT": str(edge_port), "SPOOL": str(spool)}
    here["FACE_MODEL"] = model or "haar"
    subprocess.run([sys.executable, "-m", "detector"], cwd=ROOT, env={**os.environ, **here}, check=True, timeout=900)
    assert docker("wait", f"{EDGE}-detector") == "0", "it ends when every receipt is home"
    said = docker("logs", f"{EDGE}-detector")
    print(said)
    there = stored(name)
    assert len(there) == said.count("\nface: id=")
    assert docker("logs", f"{EDGE}-logger").count(f"face: topic=faces/{name} ") == len(there)
    docker("rm", f"{EDGE}-detector")
    return there, stored(f"{name}-here")


def stored(camera: str) -> list[Face]:
    """Give the faces of a camera in the order in which they were cut."""
    bucket = Bucket()
    found = [bucket.get(key) for key in bucket.everything(f"faces/jetson-01/{camera}/")]
    return sorted(
        Face(int(told["seq"]), int(told["track"]), list(map(int, told["box"].split(","))), body)
        for body, told, _ in found
    )


def test_the_clip_s_faces_arrive_and_are_the_same_people(edge_port: int, clip: Path, tmp_path: Path) -> None:
    # A video's frames are decoded by other instructions, which round otherwise: alike, not bit for bit
    there, here = watch(clip, "clip", edge_port, tmp_path, os.environ.get("FACE_MODEL", ""))
    firsts = [{face.track: face.box for face in reversed(faces)} for faces in (there, here)]
    assert set(firsts[0]) == set(firsts[1])
    assert len(firsts[0]) == 2
    for track, box in firsts[0].items():
        assert max(abs(a - b) for a, b in zip(box, firsts[1][track], strict=True)) < 32  # px of 1280


def test_faces_of_pictures_are_bit_for_bit_those_of_this_machine(edge_port: int, clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    video = cv2.VideoCapture(str(clip))
    for number in range(200):
        frame = video.read()[1]
        if number % 20 == 0:
            cv2.imwrite(str(folder / f"{number:03d}.png"), frame)
    there, here = watch(folder, "pictures", edge_port, tmp_path, "")
    assert len(there) > 5
    assert there == here
    print(f"{len(there)} faces on {PLATFORM}, bit for bit those of this machine")
