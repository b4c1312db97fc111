"""Do a release's manifests run exactly the images that were built, on the edge and in the cloud?"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import service
from tests.pipeline import ROOT
from tests.test_devices import rendered
from tests.test_manifests import find

IMAGES = {
    f"faces-{name}": f"registry.example.com:5000/you/{name}@sha256:{number:064x}"
    for number, name in enumerate(("detector", "logger", "s3sink"))
}


def by_digest(tree: Path, lines: str) -> subprocess.CompletedProcess[str]:
    """Run what the release workflow runs, in a copy of the manifests."""
    for name in (".ci", "k8s", "mosquitto"):
        shutil.copytree(ROOT / name, tree / name, dirs_exist_ok=True)
    return subprocess.run([tree / ".ci/by-digest"], input=lines, capture_output=True, text=True, check=False)


def test_every_image_of_ours_is_named_by_its_digest(tmp_path: Path) -> None:
    lines = "".join(f"{name}={image}\n" for name, image in IMAGES.items())
    assert by_digest(tmp_path, lines).returncode == 0
    images = {
        image
        for folder in ("edge", "cloud", "devices/jetson-02")
        for image in find(list(yaml.safe_load_all(rendered(tmp_path / "k8s" / folder))), "image")
    }
    assert {image for image in images if "mosquitto" not in image} == set(IMAGES.values())


@pytest.mark.parametrize("line", ["faces-detector=image:latest", "faces-nothing=image@sha256:1", "x"])
def test_a_line_that_is_none_is_refused_by_name(line: str, tmp_path: Path) -> None:
    done = by_digest(tmp_path, f"{line}\n")
    assert done.returncode == 2
    assert line.partition("=")[0] in done.stderr


def test_the_version_is_the_same_wherever_it_is_said() -> None:
    said = {
        "service.py": r'^VERSION = "(.+)"$',
        **{f"{name}/Dockerfile": r"^ARG VERSION=(.+)$" for name in ("detector", "logger", "s3sink")},
    }
    versions = {path: re.findall(pattern, (ROOT / path).read_text(), re.MULTILINE) for path, pattern in said.items()}
    assert set(map(tuple, versions.values())) == {(service.VERSION,)}, versions
    for name in ("detector", "logger", "s3sink"):
        label = "LABEL org.opencontainers.image.version=${VERSION}\n"
        # of the last stage, which is the image
        assert label in (ROOT / name / "Dockerfile").read_text().rpartition("\nFROM ")[2]
