"""Does an upgrade of the images from 0.1.0, by cloud/up, either side first, lose or double a face?

0.1.0's images are built from its last commit, and its own cloud/up and confs start them. Run it by tests/docker/run.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest

from tests.docker.containers import (
    BROKER_IMAGE,
    EDGE,
    PROJECT,
    Bucket,
    Cloud,
    Listener,
    docker,
    eventually,
    inspect,
    remove_everything,
    run_edge_broker,
    start_edge_broker,
    start_s3,
    start_service,
)
from tests.docker.test_containers import BROKER, SINK, faces_found, logs, picture, queued  # noqa: F401 for all tests
from tests.pipeline import ROOT
from tests.test_upgrade import PHOTOS, unpack

pytestmark = pytest.mark.skipif(not BROKER_IMAGE, reason="in containers: run tests/docker/run")
Version = Literal["0.1.0", "latest"]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> dict[Version, Path]:
    """Where the two versions are; the images of both are there, too."""
    old = tmp_path_factory.mktemp("0.1.0")
    unpack(old)
    base = "--build-arg=BASE_IMAGE="
    docker("build", "-t", "faces-test/s3sink:0.1.0", base + os.environ["PYTHON_IMAGE"], old / "s3sink")
    build = ["build", "-t", "faces-test/detector:0.1.0", base + os.environ["UBUNTU_IMAGE"], "--build-arg=MODEL=none"]
    docker(*build, old / "detector")
    return {"0.1.0": old, "latest": ROOT}


@pytest.fixture(autouse=True)
def clean(logs: None) -> Iterator[None]:  # noqa: ARG001, F811 the logs go first
    """Nothing is there before, and nothing is left afterwards."""
    remove_everything()
    yield
    remove_everything()


class Upgrade:
    """A cloud and an edge in containers, of one version each."""

    def __init__(self, code: dict[Version, Path], photo: np.ndarray, directory: Path) -> None:
        self.code = code
        self.photo = photo
        self.directory = directory
        self.version: dict[str, Version] = {"cloud": "0.1.0", "edge": "0.1.0"}
        self.cloud = Cloud(directory)
        self.ids: set[str] = set()
        self.unnamed = 0  # pictures without an id, which only a queue holds

    def start(self) -> None:
        """Bring the first deployment up, by 0.1.0 alone."""
        start_s3()
        self.cloud_up()
        self.port = start_edge_broker(self.cloud.certs, self.code["0.1.0"])
        assert not list(self.cloud.certs.rglob("crl.pem")), "0.1.0 has no list of the revoked"

    def cloud_up(self) -> None:
        """Run the cloud's version of cloud/up, from a checkout that was updated in its place."""
        version = self.version["cloud"]
        for folder in ("cloud", "mosquitto"):
            shutil.rmtree(self.cloud.checkout / folder)
            shutil.copytree(self.code[version] / folder, self.cloud.checkout / folder)
        self.cloud.up(SINK_IMAGE=f"faces-test/s3sink:{version}", CA_HERE="" if version == "0.1.0" else "1")

    def edge_up(self) -> None:
        """Put a broker with the edge's version of the conf in the place of the one that is there."""
        name = f"{EDGE}-broker"
        docker("stop", name)
        docker("rm", name)
        conf = self.code[self.version["edge"]] / "mosquitto/edge"
        self.port = run_edge_broker(name, conf, "--network-alias", "edge-broker")
        docker("network", "connect", PROJECT, name)

    def look(self, photos: int) -> set[str]:
        """Start the edge's detector on new photos, and give the ids of its faces, one of each."""
        folder = self.directory / f"photos-{len(self.ids)}"
        folder.mkdir()
        for number in range(photos):
            cv2.imwrite(str(folder / f"{number:03d}.jpg"), np.roll(self.photo, 7 * number, axis=1))
        start_service(
            "detector", "-v", f"{folder}:/photos:ro", "-v", f"{EDGE}-spool:/spool", "-e", "CAMERA=/photos",
            "-e", "RESEND_AFTER=5", "-e", "FACE_INTERVAL_MAX=1", tag=self.version["edge"],
        )  # fmt: skip
        found = eventually(lambda: faces if len(faces := faces_found()) >= photos else set())
        self.ids |= found
        return found

    def look_and_publish(self) -> None:
        """Give the edge's broker new faces, and a picture that nobody sends again; all are heard there."""
        heard = Listener(self.port)
        found = self.look(PHOTOS)
        self.unnamed += 1
        unnamed = picture(self.unnamed)
        heard.publish(iter([unnamed]), "faces/door")
        found = found | {hashlib.sha256(unnamed).hexdigest()[:16]}
        eventually(lambda: found <= heard.faces.keys())
        heard.client.disconnect()
        heard.client.loop_stop()

    def fill(self) -> None:
        """Leave faces in the cloud's queue, in the edge's, and in the spool alone."""
        docker("stop", SINK)
        self.look_and_publish()
        eventually(lambda: queued(BROKER, "s3sink", self.directory) > PHOTOS)
        self.stop_detector()
        docker("network", "disconnect", PROJECT, f"{EDGE}-broker")
        self.look_and_publish()
        self.stop_detector()
        docker("stop", f"{EDGE}-broker")
        self.look(PHOTOS)
        self.stop_detector()

    def stop_detector(self) -> None:
        """Remove the detector; its spool stays."""
        docker("stop", f"{EDGE}-detector")
        docker("rm", f"{EDGE}-detector")

    def bring_home(self, bucket: Bucket) -> None:
        """Start all, cut one face more, and see that all there ever were are stored, each once."""
        self.cloud_up()
        self.edge_up()
        self.look(1)
        assert docker("wait", f"{EDGE}-detector") == "0", "it ends when every receipt is home"
        self.stop_detector()
        stored = [key[-20:-4] for key in bucket.everything("faces/jetson-01/cam0/")]
        assert sorted(stored) == sorted(self.ids)
        eventually(lambda: len(bucket.everything("faces/jetson-01/door/")) == self.unnamed)
        assert len(bucket.everything()) == len(self.ids) + self.unnamed
        print(f"{self.version}: {len(self.ids)} faces and {self.unnamed} pictures without an id, each once")


@pytest.mark.parametrize("order", [("cloud", "edge"), ("edge", "cloud")], ids=["cloud first", "edge first"])
def test_an_upgrade_of_the_images_loses_and_doubles_no_face(
    code: dict[Version, Path], photo: np.ndarray, tmp_path: Path, order: tuple[str, str]
) -> None:
    upgrade = Upgrade(code, photo, tmp_path)
    upgrade.start()
    bucket = Bucket()
    for side in order:
        upgrade.fill()
        before = [inspect(name)["Id"] for name in (BROKER, SINK)]
        upgrade.version[side] = "latest"
        upgrade.bring_home(bucket)
        if side == "cloud":
            assert not set(before) & {inspect(name)["Id"] for name in (BROKER, SINK)}, "cloud/up replaced nothing"
            assert (upgrade.cloud.certs / "cloud-broker/crl.pem").exists()
