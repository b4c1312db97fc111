"""What the tests share: certificates, pictures with faces, and a pipeline for each test."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from skimage import data
from xdist.scheduler import LoadScopeScheduling

from tests.pipeline import Pipeline, make_certs

# Those need an engine, images, and an S3 server: tests/docker/run
collect_ignore = [] if os.environ.get("BROKER_IMAGE") else ["docker"]

# Their tests share a server that costs seconds to start, or what can be there once: a demo in a folder, a cloud/up
TOGETHER = {
    f"tests/test_{name}.py" for name in ["bucket", "cloud", "demo", "gallery", "manifests", "sink", "upgrade", "view"]
}


class SingleTests(LoadScopeScheduling):  # type: ignore[misc]
    """Deals out tests one by one, so that no processor waits for the longest file."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if file in TOGETHER else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SingleTests:
    # Not by --dist loadgroup: xdist 3.8 marks no group with pytest 9.2
    return SingleTests(config, log)


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All parties' certificates, made by the shipped script."""
    directory = tmp_path_factory.mktemp("certs")
    make_certs(directory, "server", "sink", "operator", "device jetson-01", "device jetson-02")
    return directory


@pytest.fixture
def pipeline(tmp_path: Path, certs: Path) -> Iterator[Pipeline]:
    """Nothing runs yet; whatever a test starts is ended, and its logs are shown if it failed."""
    with Pipeline(tmp_path, certs) as parts:
        yield parts


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A photograph of 512 x 512 px with one face, BGR."""
    rgb: np.ndarray = data.astronaut()
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)


@pytest.fixture
def folder_of(tmp_path: Path, photo: np.ndarray) -> Callable[[int], Path]:
    """Make a folder of n photographs, a second apart for the detector, each with the face elsewhere."""

    def make(count: int) -> Path:
        folder = tmp_path / "photos"
        folder.mkdir()
        for number in range(count):
            shifted = np.roll(photo, 7 * number, axis=1)
            cv2.imwrite(str(folder / f"{number:03d}.jpg"), shifted)
        return folder

    return make


@pytest.fixture
def seed() -> int:
    """A seed for a test's randomness; printed, so that a failure can be repeated."""
    chosen = random.SystemRandom().randrange(2**32)
    print(f"seed {chosen}")
    return chosen
