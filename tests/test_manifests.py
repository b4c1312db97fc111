"""Do the manifests of edge and cloud fit together, and does every supported Kubernetes know their fields?"""

import ast
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parent.parent
Doc = dict[str, Any]

EDGE = ["hardened", "camera-usb", "cloud-by-address", "release"]
CLOUD = ["hardened", "prepare-bucket", "release"]
# What people may choose: the folder, and its components in the order of its kustomization.yaml
VARIANTS = {
    "edge": ("edge", EDGE),
    "edge with a network camera": ("edge", ["hardened", "cloud-by-address", "release"]),
    "edge with a device plugin": ("edge", ["hardened", "camera-device-plugin", "cloud-by-address", "release"]),
    "edge with a display": ("edge", ["hardened", "camera-usb", "display", "cloud-by-address", "release"]),
    "edge open to the LAN": ("edge", ["hardened", "camera-usb", "edge-from-lan", "cloud-by-address", "release"]),
    "edge with a CSI camera": ("edge", ["hardened", "camera-csi", "cloud-by-address", "release"]),
    "edge with two cameras": ("edge", ["two-cameras", *EDGE]),
    "edge with two cameras and a device plugin": (
        "edge",
        ["two-cameras", "hardened", "camera-device-plugin", "cloud-by-address", "release"],
    ),
    "edge with cert-manager": ("edge", ["cert-manager", *EDGE]),
    "edge with a name for the cloud": ("edge", ["hardened", "camera-usb", "cloud-by-name", "release"]),
    "cloud": ("cloud", CLOUD),
    "cloud with a bucket of others": ("cloud", ["hardened", "release"]),
    "cloud with metrics": ("cloud", ["metrics", *CLOUD]),
}
# Secrets are made by people, by the commands in docs/kubernetes.md, and lie nowhere in git
SECRETS = {"edge": {"bridge-tls"}, "cloud": {"cloud-broker-tls", "s3sink-tls", "s3-credentials"}}
# Read by boto3 itself
OF_THE_SDK = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"}
# The oldest schemas there are; Kubernetes 1.20 itself was tried by hand, see docs/kubernetes.md
VERSIONS = [kubernetes_validate.utils.all_versions()[0], kubernetes_validate.utils.latest_version()]


def kustomize() -> list[str]:
    """The command that renders a folder, of kustomize 4.1 or newer; skips the test where there is none."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    if shutil.which("kubectl"):
        asked = ["kubectl", "version", "--client", "-o", "json"]
        answer = subprocess.run(asked, capture_output=True, check=False).stdout
        if "kustomizeVersion" in json.loads(answer):  # kubectl 1.24
            return ["kubectl", "kustomize"]
    pytest.skip("needs kustomize, or kubectl 1.24 or newer (Debian 13: apt-get install kubectl)")


def render(tree: Path, folder: str, components: list[str]) -> list[Doc]:
    """What `kubectl apply -k` would send of a copy of the manifests, with these components listed."""
    for name in ("k8s", "mosquitto"):
        shutil.copytree(ROOT / name, tree / name, dirs_exist_ok=True)
    file = tree / "k8s" / folder / "kustomization.yaml"
    kustomization = yaml.safe_load(file.read_text())
    kustomization["components"] = [f"../components/{name}" for name in components]
    file.write_text(yaml.safe_dump(kustomization))
    done = subprocess.run([*kustomize(), str(file.parent)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "a warning shows at each kubectl apply"
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def docs(variant: str, tmp_path_factory: pytest.TempPathFactory) -> list[Doc]:
    return render(tmp_path_factory.mktemp("manifests"), *VARIANTS[variant])


def named(docs: list[Doc], kind: str) -> dict[str, Doc]:
    return {doc["metadata"]["name"]: doc for doc in docs if doc["kind"] == kind}


def workloads(docs: list[Doc]) -> list[Doc]:
    return [doc for doc in docs if "template" in doc.get("spec", {})]


def pod_specs(docs: list[Doc]) -> list[Doc]:
    return [doc["spec"]["template"]["spec"] for doc in workloads(docs)]


def containers(pod: Doc) -> list[Doc]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def find(node: Any, key: str) -> Iterator[Any]:
    """Every value under `key`, at any depth."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from find(value, key)
    elif isinstance(node, list):
        for item in node:
            yield from find(item, key)


def selected(selector: Doc, docs: list[Doc]) -> list[Doc]:
    """The workloads whose pods a selector means; an empty one means all."""
    labels = selector if all(isinstance(value, str) for value in selector.values()) else selector.get("matchLabels", {})
    wanted = {key: [value] for key, value in labels.items()}
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        wanted[expression["key"]] = expression["values"]
    return [
        doc
        for doc in workloads(docs)
        if all(doc["spec"]["template"]["metadata"]["labels"].get(key) in values for key, values in wanted.items())
    ]


def port_names(docs: list[Doc]) -> set[str]:
    return {port["name"] for pod in pod_specs(docs) for ports in find(pod, "ports") for port in ports}


def bytes_of(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * {"Mi": 2**20, "Gi": 2**30}[unit]


def test_no_component_is_left_out() -> None:
    tried = {name for _folder, components in VARIANTS.values() for name in components}
    assert tried == {folder.name for folder in (ROOT / "k8s/components").iterdir()}
    for folder, components in (("edge", EDGE), ("cloud", CLOUD)):
        kustomization = yaml.safe_load((ROOT / "k8s" / folder / "kustomization.yaml").read_text())
        assert kustomization["components"] == [f"../components/{name}" for name in components]


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(docs: list[Doc], version: str) -> None:
    for doc in docs:
        if doc["kind"] == "Certificate":  # cert-manager's, looked at below
            continue
        kubernetes_validate.validate(doc, version, strict=True)  # raises for an unknown apiVersion, too


def test_what_is_referred_to_exists(variant: str, docs: list[Doc]) -> None:
    maps, claims, services = (named(docs, "ConfigMap"), named(docs, "PersistentVolumeClaim"), named(docs, "Service"))
    pods = pod_specs(docs)
    used = [it["name"] for key in ("configMapRef", "configMapKeyRef", "configMap") for it in find(pods, key)]
    assert set(used) == set(maps)
    assert {it["claimName"] for it in find(pods, "persistentVolumeClaim")} == set(claims)
    secrets = {it["name"] for key in ("secretRef", "secretKeyRef") for it in find(pods, key)}
    secrets |= {it["secretName"] for it in find(pods, "secret")}
    folder, components = VARIANTS[variant]
    more = {"prepare-bucket": "bucket-credentials", "metrics": "operator-tls", "edge-from-lan": "edge-passwords"}
    assert secrets == SECRETS[folder] | {more[name] for name in components if name in more}
    assert not list(find(pods, "serviceAccountName"))
    assert set(find(docs, "serviceName")) <= set(services)
    hosts = [it["value"] for env in find(pods, "env") for it in env if it["name"] == "MQTT_HOST"]
    assert hosts
    assert set(hosts) <= set(services)


def test_volumes_are_there_and_mounted(docs: list[Doc]) -> None:
    for pod in pod_specs(docs):
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        mounts = [mount for container in containers(pod) for mount in container.get("volumeMounts", [])]
        assert {mount["name"] for mount in mounts} == set(volumes)
        for mount in mounts:
            if "subPath" in mount and "configMap" in volumes[mount["name"]]:
                name = volumes[mount["name"]]["configMap"]["name"]
                assert mount["subPath"] in named(docs, "ConfigMap")[name]["data"]


def test_selectors_and_ports_meet_pods(docs: list[Doc]) -> None:
    for doc in workloads(docs):
        if doc["kind"] != "Job":  # Kubernetes gives it a selector of its own
            assert selected(doc["spec"]["selector"], docs) == [doc], "selects its own pods and no others"
        for container in containers(doc["spec"]["template"]["spec"]):
            names = {port["name"] for port in container.get("ports", [])}
            assert {probe["port"] for key in ("tcpSocket", "httpGet") for probe in find(container, key)} <= names
    for service in named(docs, "Service").values():
        if service["spec"].get("type") == "ExternalName":
            continue
        behind = selected(service["spec"]["selector"], docs)
        assert len(behind) == 1
        assert {port["targetPort"] for port in service["spec"].get("ports", [])} <= port_names(behind)
    for policy in named(docs, "NetworkPolicy").values():
        for selector in [policy["spec"]["podSelector"], *find(policy["spec"].get("ingress", []), "podSelector")]:
            assert selected(selector, docs)
        for rule in policy["spec"].get("ingress", []):
            assert {port["port"] for port in rule["ports"]} <= port_names(selected(policy["spec"]["podSelector"], docs))
        for rule in policy["spec"].get("egress", []):
            to = [doc for peer in rule.get("to", []) for doc in selected(peer["podSelector"], docs)]
            assert {port["port"] for port in rule["ports"] if isinstance(port["port"], str)} <= port_names(to)
            assert bool(to) == ("to" in rule)


def test_all_lies_in_one_namespace_that_nobody_else_reaches(variant: str, docs: list[Doc]) -> None:
    (namespace,) = named(docs, "Namespace")
    assert {doc["metadata"].get("namespace") for doc in docs if doc["kind"] != "Namespace"} == {namespace}
    policies = named(docs, "NetworkPolicy")
    assert policies["deny-all"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    allowed: dict[str, list[str]] = {}
    for policy in policies.values():
        for rule in policy["spec"].get("ingress", []):
            for port in rule["ports"]:
                peers = [next(iter(next(iter(peer.values()))["matchLabels"].values())) for peer in rule.get("from", [])]
                allowed[port["port"]] = sorted([*allowed.get(port["port"], []), *peers])
    # to the world: the devices' port, which wants a certificate, or that of the LAN, which wants a password
    if "edge-broker" in policies:
        open_to_all = ["lan"] if "edge-from-lan" in VARIANTS[variant][1] else []
        few = {"mqtt": ["detector", "logger"]}
    elif "mqtt-exporter" in policies:
        # the namespace of Prometheus, which is not ours
        open_to_all, few = ["devices"], {"sinks": ["mqtt-exporter", "s3sink"], "metrics": ["monitoring"]}
    else:
        open_to_all, few = ["devices"], {"sinks": ["s3sink"]}
    assert allowed == {**few, **{port: [] for port in open_to_all}}
    public = [doc["spec"] for doc in named(docs, "Service").values() if doc["spec"].get("type") == "LoadBalancer"]
    assert [port["targetPort"] for spec in public for port in spec["ports"]] == open_to_all


def test_the_conf_of_a_broker_is_the_file(variant: str, docs: list[Doc]) -> None:
    folder = VARIANTS[variant][0]
    (conf,) = [doc["data"] for name, doc in named(docs, "ConfigMap").items() if name.startswith(f"{folder}-broker-")]
    files = [
        path for path in (ROOT / "mosquitto" / folder).iterdir() if path.name not in ("kustomization.yaml", "passwords")
    ]
    assert {name: text.encode() for name, text in conf.items()} == {path.name: path.read_bytes() for path in files}


def test_a_broker_has_room_for_what_its_conf_allows(variant: str, docs: list[Doc]) -> None:
    folder = VARIANTS[variant][0]
    text = (ROOT / "mosquitto" / folder / "mosquitto.conf").read_text()
    conf = dict(line.split(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    listeners = [int(port) for port in re.findall(r"^listener (\d+)$", text, re.MULTILINE)]
    name = f"{folder}-broker"
    (container,) = named(docs, "Deployment")[name]["spec"]["template"]["spec"]["containers"]
    assert bytes_of(container["resources"]["limits"]["memory"]) > 2.5 * int(conf["max_queued_bytes"])
    claim = named(docs, "PersistentVolumeClaim")[name]["spec"]["resources"]["requests"]["storage"]
    assert bytes_of(claim) > 4 * int(conf["max_queued_bytes"])
    if "edge-from-lan" in VARIANTS[variant][1]:
        listeners.append(1884)  # whose lines are in docs/recipes.md
    assert [port["containerPort"] for port in container["ports"]] == listeners
    if folder == "edge":
        assert conf["address"] == "cloud-broker:8883"
        pod = named(docs, "Deployment")[name]["spec"]["template"]["spec"]
        aliases = [alias["hostnames"] for alias in pod.get("hostAliases", [])]
        assert (aliases == [["cloud-broker"]]) != ("cloud-broker" in named(docs, "Service"))


def test_a_spool_fits_its_volume_and_belongs_to_one_detector(docs: list[Doc]) -> None:
    claims, maps = named(docs, "PersistentVolumeClaim"), named(docs, "ConfigMap")
    detectors = [doc for name, doc in named(docs, "Deployment").items() if name.startswith("detector")]
    taken = []
    for doc in detectors:
        pod = doc["spec"]["template"]["spec"]
        (claim,) = [it["claimName"] for it in find(pod, "persistentVolumeClaim")]
        settings = maps[next(find(pod, "configMapRef"))["name"]]["data"]
        assert bytes_of(claims[claim]["spec"]["resources"]["requests"]["storage"]) > 1.5 * int(
            settings["SPOOL_MAX_BYTES"]
        )
        taken += [claim, settings["CAMERA"], settings["CAMERA_NAME"]]
    assert len(taken) == len(set(taken))


def test_nothing_with_a_volume_ever_runs_twice(docs: list[Doc]) -> None:
    for doc in named(docs, "Deployment").values():
        if list(find(doc, "persistentVolumeClaim")):
            assert doc["spec"]["replicas"] == 1
            assert doc["spec"]["strategy"] == {"type": "Recreate"}


def test_no_secret_is_rendered(docs: list[Doc]) -> None:
    assert not named(docs, "Secret")
    text = json.dumps(docs)
    assert "PRIVATE KEY" not in text
    assert not re.search(r"AKIA[0-9A-Z]{16}", text)
    for data in [*find(docs, "data"), *({it["name"]: it.get("value")} for env in find(docs, "env") for it in env)]:
        assert not re.search("SECRET|PASSWORD|ACCESS_KEY|TOKEN", " ".join(data))


def test_containers_can_do_no_more_than_they_must(variant: str, docs: list[Doc]) -> None:
    components = VARIANTS[variant][1]
    for pod in pod_specs(docs):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            context = dict(container["securityContext"])
            assert context.pop("readOnlyRootFilesystem") is True
            assert context.pop("capabilities") == {"drop": ["ALL"]}
            if container["name"] == "camera":
                assert context.pop("runAsNonRoot") is False
            if container["name"] == "camera" or (container["name"] == "detector" and "camera-usb" in components):
                assert context.pop("privileged") is True
            else:
                assert context.pop("allowPrivilegeEscalation") is False
            if container["name"] in ("device-plugin", "camera"):
                assert context.pop("runAsUser") == 0
            else:
                assert pod["securityContext"]["runAsNonRoot"] is True
                assert pod["securityContext"]["runAsUser"] > 0
            assert not context
        paths = {it["path"] for it in find(pod, "hostPath")}
        allowed = {"/dev", "/tmp/.X11-unix", "/var/lib/kubelet/device-plugins"}
        paths -= {"/run/udev"} if "camera-csi" in components else set()
        assert paths <= (allowed if {"camera-usb", "camera-device-plugin"} & set(components) else set())
        assert ("hostNetwork" in pod) <= ("display" in components)


def test_containers_are_probed_and_bounded(docs: list[Doc]) -> None:
    for pod in pod_specs(docs):
        for container in containers(pod):
            for bound in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][bound])
        for container in pod["containers"]:
            if pod.get("restartPolicy") != "Never":  # that of a Job, which ends
                assert {"livenessProbe", "readinessProbe"} <= set(container)


def test_images_are_named_once(docs: list[Doc]) -> None:
    for file in (ROOT / "k8s").rglob("*.yaml"):
        for name in re.findall(r"^\s*(?:- )?image:\s*(\S+)", file.read_text(), re.MULTILINE):
            assert ":" not in name, f"{file}: its tag belongs into the kustomization.yaml"
    for image in find(docs, "image"):
        name, _, tag = image.partition(":")
        assert tag, f"{name}: no tag in any kustomization.yaml"
        assert tag != "latest"


def settings_read_by(service: str) -> set[str]:
    """Every string in a service's source that looks like a setting."""
    return {
        node.value
        for file in [ROOT / "service.py", *(ROOT / service).glob("*.py")]
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.fullmatch(r"[A-Z][A-Z0-9_]+", node.value)
    }


def test_settings_are_read_by_the_service(docs: list[Doc]) -> None:
    maps = named(docs, "ConfigMap")
    for pod in pod_specs(docs):
        for container in containers(pod):
            if container["image"].startswith("faces-"):
                known = settings_read_by(container["image"].removeprefix("faces-").partition(":")[0]) | OF_THE_SDK
                given = {it["name"] for it in container.get("env", [])}
                for source in find(container, "configMapRef"):
                    given |= set(maps[source["name"]]["data"])
                assert given <= known


def test_cert_manager_s_certificate_is_the_one_that_the_bridge_reads_under_its_device_s_name(tmp_path: Path) -> None:
    for name in ("k8s", "mosquitto"):
        shutil.copytree(ROOT / name, tmp_path / name)
    file = tmp_path / "k8s/devices/jetson-02/kustomization.yaml"
    kustomization = yaml.safe_load(file.read_text())
    kustomization["components"].insert(0, "../../components/cert-manager")
    # as the component's comment tells to
    component = (ROOT / "k8s/components/cert-manager/kustomization.yaml").read_text()
    kustomization |= yaml.safe_load(
        re.sub(r"(?m)^# ?", "", component[component.index("#   replacements:") :].split("\napi")[0])
    )
    file.write_text(yaml.safe_dump(kustomization))
    done = subprocess.run([*kustomize(), str(file.parent)], capture_output=True, text=True, check=True)
    docs = list(yaml.safe_load_all(done.stdout))
    certificate = named(docs, "Certificate")["bridge-tls"]["spec"]
    assert certificate["commonName"] == "jetson-02"
    assert certificate["usages"] == ["client auth"]
    bridge = named(docs, "Deployment")["edge-broker"]["spec"]["template"]["spec"]
    assert certificate["secretName"] in [it["secretName"] for it in find(bridge, "secret")]


def test_settings_in_comments_exist_too() -> None:
    for file in (ROOT / "k8s").rglob("settings.env"):
        known = settings_read_by("s3sink" if "cloud" in file.parts else "detector") | OF_THE_SDK
        for line in file.read_text().splitlines():
            name = re.fullmatch(r"(?:# )?([A-Z0-9_]+)=.*", line)
            assert line.startswith("# ") or name, line
            assert name is None or name[1] in known


def test_what_prepares_the_bucket_is_not_what_fills_it() -> None:
    manifests = [*(ROOT / "k8s/cloud").glob("*.yaml"), *(ROOT / "k8s/components/prepare-bucket").glob("*.yaml")]
    docs = [doc for path in manifests for doc in yaml.safe_load_all(path.read_text())]
    job, sink = named(docs, "Job")["prepare-bucket"], named(docs, "StatefulSet")["s3sink"]
    secrets = [{it["name"] for it in find(doc, "secretRef")} for doc in (job, sink)]
    assert secrets == [{"bucket-credentials"}, {"s3-credentials"}]
    assert not list(find(sink, "initContainers"))


def test_the_device_that_a_pod_asks_for_is_one_that_the_plugin_offers(variant: str, docs: list[Doc]) -> None:
    # its default domain is another one from 0.2.0 on (its issue 75); a pod that asks for the old one waits for ever
    asked = {name for limits in find(pod_specs(docs), "limits") for name in limits if "/" in name}
    offered = set()
    for plugin in named(docs, "DaemonSet").values():
        args = plugin["spec"]["template"]["spec"]["containers"][0]["args"]
        values = list(itertools.pairwise(args))
        (domain,) = [value for option, value in values if option == "--domain"]
        offered |= {f"{domain}/{yaml.safe_load(value)['name']}" for option, value in values if option == "--device"}
    assert asked == offered
    assert bool(asked) == ("camera-device-plugin" in VARIANTS[variant][1])
