"""Does what the documents tell people to type, and what they say the programs say, still hold?"""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.pipeline import ROOT
from tests.test_manifests import find
from tests.test_sources import CODE

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = "".join(path.read_text() for path in CODE)


def commands(page: Path) -> list[str]:
    """Give every command of a page in its order: what follows `$ ` in a code block, with its continued lines."""
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(), re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [re.sub(r"\s+", " ", line[2:].partition("  #")[0]).strip() for line in lines if line.startswith("$ ")]


class Reader:
    """Who types a page's commands, in a checkout in which nothing was made yet."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.namespaces: set[str] = set()
        self.secrets: set[tuple[str, str]] = set()

    def runs(self, command: str, cwd: Path | None = None) -> str:
        """Run a command; it must end well. Gives what it printed."""
        ended = subprocess.run(
            command, shell=True, cwd=cwd or self.checkout, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, f"{command}: {ended.stderr}"
        return ended.stdout


def is_run_here(command: str, reader: Reader) -> None:
    """Run it as it stands."""
    reader.runs(command)


def is_a_target(command: str, reader: Reader) -> None:
    """Check that make knows the target."""
    reader.runs(command.replace("make", "make --dry-run", 1), ROOT)


def makes_a_namespace(command: str, reader: Reader) -> None:
    """Note the namespace, or read which one the file makes."""
    if " create " in command:
        reader.namespaces.add(command.split()[3])
        return
    (doc,) = yaml.safe_load_all((reader.checkout / command.rsplit(maxsplit=1)[-1]).read_text())
    assert doc["kind"] == "Namespace"
    reader.namespaces.add(doc["metadata"]["name"])


def makes_a_secret(command: str, reader: Reader) -> None:
    """Make it without a cluster, in a namespace that is there, of what is there by now."""
    found = re.fullmatch(r"kubectl -n (\S+) create secret generic (\S+) .*", command)
    assert found
    assert found[1] in reader.namespaces, f"no namespace yet: {command}"
    reader.secrets.add((found[1], found[2]))
    if shutil.which("kubectl"):
        reader.runs(f"{command} --dry-run=client -o yaml")


def renders(command: str, reader: Reader) -> None:
    """Have kubectl render the folder; a pod that waits for a Secret is late by minutes, so all are there before."""
    folder = command.rsplit(maxsplit=1)[-1]
    assert (reader.checkout / folder / "kustomization.yaml").exists()
    if shutil.which("kubectl"):
        docs = list(yaml.safe_load_all(reader.runs(f"kubectl kustomize {folder}")))
        needed = {(doc["metadata"].get("namespace"), it["secretName"]) for doc in docs for it in find(doc, "secret")}
        assert reader.secrets >= needed


def is_run_elsewhere(test: str) -> Callable[[str, Reader], None]:
    """Name the test that runs it; that test must exist."""

    def check(_command: str, _reader: Reader) -> None:
        path, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text()

    return check


def in_a_cluster(_command: str, _reader: Reader) -> None:
    """Leave it: it looks at a cluster, or talks to a broker in one; tried by hand, see docs/kubernetes.md."""


IN_CONTAINERS = "tests/docker/test_containers.py::"
UP = IN_CONTAINERS + "test_up_publishes_8883_alone_and_says_what_to_do_on_the_edge"
BY_HAND = "tests/docker/test_by_hand.py::test_the_commands_as_they_stand_bring_a_face_into_the_bucket"
FLEET = IN_CONTAINERS + "test_the_operator_sees_the_fleet"
EXPORTER = IN_CONTAINERS + "test_the_documented_exporter_serves_the_fleet_s_figures"
SWITCH = "tests/test_switch.py::test_an_open_camera_is_let_go_and_stays_so_over_restarts"
AWS = "tests/test_cloud.py::test_the_vm_fetches_certificates_hands_over_a_role_and_runs_cloud_up"
CHECKS: list[tuple[str, Callable[[str, Reader], None]]] = [
    (r'make [\w-]+( \w+=("[^"]*"|\S+))*', is_a_target),
    (r"kubectl apply -f \S+/namespace\.yaml|kubectl create namespace \S+ --save-config", makes_a_namespace),
    (r"kubectl apply -k \S+", renders),
    (r"kubectl (-n \S+ )?create secret generic .*", makes_a_secret),
    (r"(CERTS=\S+ )?mosquitto/certs .*|mkdir -p certs/.*", is_run_here),
    (r"cp (-r k8s/devices/|cloud/\.env).*", is_run_here),
    (r"tar .* aws ssm put-parameter .*|aws cloudformation .*", is_run_elsewhere(AWS)),
    (r"docker run .* faces-logger:dev python -m logger --status", is_run_elsewhere(FLEET)),
    (r"docker run .* kpetrem/mqtt-exporter:1.12.1", is_run_elsewhere(EXPORTER)),
    (r"mosquitto_pub -u home .*", is_run_elsewhere(SWITCH)),
    (r"PROJECT=\S+ .* cloud/up", is_run_elsewhere(IN_CONTAINERS + "test_a_second_cell_stands_beside_the_first")),
    (r"cloud/up", is_run_elsewhere(UP)),
    (r"kubectl -n \S+ (get|logs|rollout|scale|exec|port-forward) .*", in_a_cluster),
    (r"mosquitto_sub .*( -i s3sink-1 |--remove-retained).*", in_a_cluster),
]
# what whoever comes to a page has already, from the page on the whole
BEFORE = {
    "operations.md": [f"mosquitto/certs {party}" for party in ("server", "device jetson-01", "device jetson-07")],
    "cells.md": ["mosquitto/certs server", "mosquitto/certs sink", "cp cloud/.env.example cloud/.env"],
    "metrics.md": ["mosquitto/certs operator", "kubectl apply -f k8s/cloud/namespace.yaml"],
}
# one page is typed as a whole, into an engine
TYPED = [(r"(docker|cloud/down|CLOUD=|export CAMERA=).*", is_run_elsewhere(BY_HAND))]


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """A copy of what the commands touch, and of nothing that was made before."""
    for name in ("mosquitto", "cloud", "k8s"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns(".env"))
    return Reader(tmp_path)


# recipes.md: all of it is run by test_recipes.py
@pytest.mark.parametrize(
    "page", [page for page in PAGES if commands(page) and page.name != "recipes.md"], ids=lambda page: page.name
)
def test_the_commands_of_a_page_work_in_their_order(page: Path, reader: Reader) -> None:
    for command in BEFORE.get(page.name, []) + commands(page):
        print("$", command)
        checks = CHECKS + TYPED if page.name == "docker.md" else CHECKS
        known = [check for pattern, check in checks if re.fullmatch(pattern, command)]
        assert known, f"no test knows how to try: {command}"
        known[0](command, reader)


def quoted_messages() -> list[str]:
    """Give the words of every line in the table of what goes wrong, up to the first value."""
    table = (ROOT / "docs/troubleshooting.md").read_text()
    lines = re.findall(r"^\| `([^`]+)`", table, re.M)
    return [re.split(r": |=", line)[0] for line in lines]


@pytest.mark.parametrize("words", quoted_messages())
def test_every_message_in_the_table_of_what_goes_wrong_is_one_of_ours(words: str) -> None:
    assert words in SOURCES


def test_every_test_that_the_documents_name_exists() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text())}
    assert named
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 200
    linked = set(re.findall(r"\]\((docs/\w[\w-]*\.md)", text))
    assert linked >= {str(page.relative_to(ROOT)) for page in PAGES[1:]}
