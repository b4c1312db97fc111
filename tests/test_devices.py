"""Is a device's name said in one place, and does a device differ from the next by its name alone?"""

import itertools
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.pipeline import ROOT
from tests.test_manifests import VERSIONS, Doc, kustomize, named

DEVICES = sorted(path.parent.name for path in (ROOT / "k8s/devices").glob("*/kustomization.yaml"))


def rendered(folder: Path) -> str:
    """What `kubectl apply -k` would send."""
    done = subprocess.run([*kustomize(), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "a warning shows at each kubectl apply"
    return done.stdout


def without_hashes(text: str) -> str:
    """The same, but for the hash that a ConfigMap of other contents has in its name."""
    for name in named(list(yaml.safe_load_all(text)), "ConfigMap"):
        text = text.replace(name, name.rpartition("-")[0])
    return text


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_is_its_folder(device: str) -> None:
    docs: list[Doc] = list(yaml.safe_load_all(rendered(ROOT / "k8s/devices" / device)))
    (name,) = [doc["data"]["NAME"] for key, doc in named(docs, "ConfigMap").items() if key.startswith("device-")]
    assert name == device
    for doc, version in itertools.product(docs, VERSIONS):
        kubernetes_validate.validate(doc, version, strict=True)


def test_a_hundred_devices_differ_by_their_names_only(tmp_path: Path) -> None:
    for name in ("k8s", "mosquitto"):
        shutil.copytree(ROOT / name, tmp_path / name)
    template = tmp_path / "k8s/devices" / DEVICES[0]
    seen = set()
    for number in range(100):
        device = f"camera-box-{number:02d}"
        folder = shutil.copytree(template, template.with_name(device))
        file = folder / "kustomization.yaml"
        file.write_text(file.read_text().replace(DEVICES[0], device))
        seen.add(without_hashes(rendered(folder)).replace(device, "THE-NAME"))
    assert len(seen) == 1
    assert "THE-NAME" in seen.pop()


@pytest.mark.skipif(not shutil.which("sed"), reason="needs sed")
def test_the_name_takes_the_place_of_the_first_device_everywhere_in_the_conf(tmp_path: Path) -> None:
    docs = list(yaml.safe_load_all(rendered(ROOT / "k8s/devices" / DEVICES[0])))
    (container,) = named(docs, "Deployment")["edge-broker"]["spec"]["template"]["spec"]["containers"]
    (script,) = container["args"]
    script = script.replace("/mosquitto/config/mosquitto.conf", '"$CONF"')
    script = script.replace("/tmp/", f"{tmp_path}/").replace("exec mosquitto", "echo")
    conf = ROOT / "mosquitto/edge/mosquitto.conf"
    env = {"NAME": "porch-7", "CONF": str(conf), "PATH": "/usr/bin:/bin"}
    subprocess.run([*container["command"], script], env=env, check=True)
    shipped = conf.read_text()
    assert (tmp_path / "mosquitto.conf").read_text() == shipped.replace("jetson-01", "porch-7")
