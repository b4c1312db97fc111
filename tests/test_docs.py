"""Does what the documents tell people to type, and what they say the programs say, still hold?"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline import ROOT
from tests.test_sources import CODE

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = "".join(path.read_text() for path in CODE)


def commands() -> list[str]:
    """Give every command of every page: what follows `$ ` in a code block, with its continued lines."""
    found = set()
    for page in PAGES:
        for block in re.findall(r"^```\n(.*?)^```", page.read_text(), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("$ "):
                    found.add(re.sub(r"\s+", " ", line[2:].partition("  #")[0]).strip())
    return sorted(found)


def runs(command: str, cwd: Path, **env: str) -> None:
    """Run a command as it stands; it must end well."""
    ended = subprocess.run(
        command, shell=True, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def is_a_target(command: str, _checkout: Path) -> None:
    """Check that make knows the target."""
    runs(command.replace("make", "make --dry-run", 1), ROOT)


def renders(command: str, checkout: Path) -> None:
    """Check that kubectl can render the folder; test_manifests.py looks at what comes out."""
    folder = checkout / command.rsplit(maxsplit=1)[-1]
    if folder.name == "porch":  # a copy that the page tells to make
        shutil.copytree(folder.with_name("jetson-02"), folder)
    assert (folder / "kustomization.yaml").exists()
    if shutil.which("kubectl"):
        runs(f"kubectl kustomize {folder}", checkout)


def makes_a_secret(command: str, checkout: Path) -> None:
    """Run `kubectl create secret` without a cluster, on certificates made by the shipped script."""
    for party in ("server", "sink", "device jetson-01", "device porch"):
        runs(f"mosquitto/certs {party}", checkout)
        runs(f"mosquitto/certs {party}", checkout, CERTS="certs/cell-2")
    if shutil.which("kubectl"):
        runs(f"{command} --dry-run=client -o yaml", checkout)


def is_run_here(command: str, checkout: Path) -> None:
    """Run it in a copy of the checkout."""
    runs(command, checkout)


def copies_the_settings(command: str, checkout: Path) -> None:
    """Run it after the settings were made."""
    runs(f"cp cloud/.env.example cloud/.env && {command}", checkout)


def is_run_elsewhere(test: str) -> Callable[[str, Path], None]:
    """Name the test that runs it; that test must exist."""

    def check(_command: str, _checkout: Path) -> None:
        path, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text()

    return check


CHECKS: list[tuple[str, Callable[[str, Path], None]]] = [
    (r"make [\w-]+( \w+=(\"[^\"]*\"|\S+))*", is_a_target),
    (r"kubectl apply -k \S+", renders),
    (r"kubectl (-n \S+ )?create secret generic .*", makes_a_secret),
    (r"(CERTS=\S+ )?mosquitto/certs .*|mkdir -p certs/.*", is_run_here),
    (r"cp -r k8s/devices/.*", is_run_here),
    (r"cp cloud/\.env\.example cloud/\.env", is_run_here),
    (r"cp cloud/\.env cloud/cell-2\.env", copies_the_settings),
    (
        r"docker run .* faces-logger:dev python -m logger --status",
        is_run_elsewhere("tests/docker/test_containers.py::test_the_operator_sees_the_fleet"),
    ),
    (
        r"PROJECT=\S+ .* cloud/up",
        is_run_elsewhere("tests/docker/test_containers.py::test_a_second_cell_stands_beside_the_first"),
    ),
    (
        r"cloud/up",
        is_run_elsewhere(
            "tests/docker/test_containers.py::test_up_publishes_8883_alone_and_says_what_to_do_on_the_edge"
        ),
    ),
]
# What looks at a cluster, or talks to a broker in one; tried by hand, see docs/kubernetes.md
IN_A_CLUSTER = (
    r"kubectl -n \S+ (get|logs|rollout|scale|exec|port-forward) .*"
    r"|mosquitto_sub .*( -i s3sink-1 |--remove-retained).*"
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the commands touch."""
    for name in ("mosquitto", "cloud", "k8s"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("command", commands())
def test_every_command_in_the_documents_works(command: str, checkout: Path) -> None:
    for pattern, check in CHECKS:
        if re.fullmatch(pattern, command):
            check(command, checkout)
            return
    assert re.fullmatch(IN_A_CLUSTER, command), f"no test knows how to try: {command}"


def quoted_messages() -> list[str]:
    """Give the words of every line in the README's table of what goes wrong, up to the first value."""
    table = (ROOT / "README.md").read_text().partition("## When something is wrong")[2].partition("\n## ")[0]
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
