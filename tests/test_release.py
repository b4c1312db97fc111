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
    for name in (".ci", "k8s", "mosquitto", "cloud"):
        shutil.copytree(ROOT / name, tree / name, dirs_exist_ok=True)
    return subprocess.run([tree / ".ci/by-digest"], input=lines, capture_output=True, text=True, check=False)


def images_run(tree: Path) -> set[str]:
    """Give all images that the manifests name, with every component that brings one."""
    components = sorted(path.parent for path in (tree / "k8s/components").glob("*/kustomization.yaml"))
    with_images = [path.name for path in components if "\nimages:\n" in (path / "kustomization.yaml").read_text()]
    assert len(with_images) >= 3
    for folder in ("edge", "cloud"):
        path = tree / "k8s" / folder / "kustomization.yaml"
        file = yaml.safe_load(path.read_text())
        file["components"] = [f"../components/{name}" for name in with_images if folder == "edge" or name == "release"]
        path.write_text(yaml.safe_dump(file))
    docs = [doc for folder in ("edge", "cloud") for doc in yaml.safe_load_all(rendered(tree / "k8s" / folder))]
    return set(find(docs, "image"))


def test_every_image_that_a_release_runs_is_named_by_its_digest(tmp_path: Path) -> None:
    others = subprocess.run([ROOT / ".ci/by-digest", "--others"], capture_output=True, text=True, check=True).stdout
    named = dict(re.findall(r"^(.+)=(.+)$", others, re.MULTILINE))
    assert named["eclipse-mosquitto"] in (ROOT / "cloud/up").read_text(), "cloud/up runs another broker"
    pinned = {name: f"{image.rpartition(':')[0]}@sha256:{7:064x}" for name, image in named.items()}
    lines = "".join(f"{name}={image}\n" for name, image in {**pinned, **IMAGES}.items())
    done = by_digest(tmp_path, lines)
    assert done.returncode == 0, done.stderr
    assert images_run(tmp_path) == {*pinned.values(), *IMAGES.values()}
    up = (tmp_path / "cloud/up").read_text()
    assert f"$(setting BROKER_IMAGE {pinned['eclipse-mosquitto']})" in up
    assert f"$(setting SINK_IMAGE {IMAGES['faces-s3sink']})" in up


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
