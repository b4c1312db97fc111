"""Can a device move from one cell, a cloud broker with its sinks, to another in full stream, and lose nothing?"""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.pipeline import ROOT, Pipeline, eventually
from tests.test_devices import rendered
from tests.test_manifests import VERSIONS, named
from tests.test_pipeline import ids, stored_ids

CELLS = sorted(path.name for path in (ROOT / "k8s/cells").iterdir() if path.is_dir())


@pytest.fixture
def other_cell(tmp_path: Path, certs: Path) -> Iterator[Pipeline]:
    """A second cloud broker with its sink; certificates of the same CA, and the same bucket."""
    directory = tmp_path / "other-cell"
    directory.mkdir()
    with Pipeline(directory, certs) as parts:
        yield parts


def start_both(cell: Pipeline, other: Pipeline) -> None:
    """Start both cells, and a device in the first."""
    cell.all_but_detector()
    other.env["AWS_ENDPOINT_URL_S3"] = cell.s3_url
    other.cloud()
    other.sink()
    eventually(lambda: "connected:" in other.log("s3sink"))


def move(device: Pipeline, cell: Pipeline) -> None:
    """Lead the name cloud-broker to another cell; the edge's broker, and nothing else, starts again."""
    device.stop("edge")
    device.edge(CLOUD_ADDRESS=f"localhost:{cell.cloud_port}")


def stored_by(cell: Pipeline) -> int:
    """Count what a cell's sink has stored."""
    return cell.log("s3sink").count("stored: ")


def test_a_device_moves_to_another_cell_and_back_in_full_stream(
    pipeline: Pipeline, other_cell: Pipeline, folder_of: Callable[[int], Path]
) -> None:
    start_both(pipeline, other_cell)
    detector = pipeline.detector(folder_of(60))
    eventually(lambda: stored_by(pipeline) >= 5)
    # what its broker has taken and no sink has stored stays behind, and comes by the other cell
    pipeline.stop("s3sink")
    before = len(ids(pipeline))
    eventually(lambda: len(ids(pipeline)) > before + 3)
    move(pipeline, other_cell)
    eventually(lambda: stored_by(other_cell) >= 5, 60)
    # and is stored once more, under the same keys, when the first cell goes on
    twice = stored_by(pipeline)
    pipeline.sink()
    eventually(lambda: stored_by(pipeline) > twice)
    move(pipeline, pipeline)
    assert detector.wait(120) == 0
    assert len(ids(pipeline)) >= 40
    assert sorted(stored_ids(pipeline)) == sorted(ids(pipeline))


def test_one_table_a_cell_and_the_worst_of_them_counts(
    pipeline: Pipeline, other_cell: Pipeline, folder_of: Callable[[int], Path]
) -> None:
    def status(**given: str) -> "subprocess.CompletedProcess[str]":
        # a checkout whose packages are there, whatever the times of its files
        command = ["make", "--silent", "--old-file=.venv/demo", "status"]
        env = {**pipeline.env, "MQTT_CERTS": str(pipeline.certs / "operator"), **given}
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)

    start_both(pipeline, other_cell)
    ports = f"{pipeline.sink_port} {other_cell.sink_port}"
    eventually(lambda: status(MQTT_PORT=ports).returncode == 0)
    said = status(MQTT_PORT=ports).stdout
    assert said.count("DEVICE") == 2
    assert said.index(f":{pipeline.sink_port}") < said.index(f":{other_cell.sink_port}")
    move(pipeline, other_cell)
    pipeline.detector(folder_of(3))
    eventually(lambda: "jetson-01  detector" in status(MQTT_PORT=ports).stdout.rpartition("DEVICE")[2], 60)
    other_cell.kill("s3sink")  # its last will says down
    eventually(lambda: "down" in status(MQTT_PORT=ports).stdout)
    assert "Error 1" in status(MQTT_PORT=ports).stderr
    other_cell.kill("cloud")
    assert "Error 69" in status(MQTT_PORT=f"{other_cell.sink_port} {pipeline.sink_port}").stderr


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_is_the_cloud_in_a_namespace_of_its_own(cell: str) -> None:
    text = rendered(ROOT / "k8s/cells" / cell)
    assert text.replace(f"faces-{cell}", "faces-cloud") == rendered(ROOT / "k8s/cloud")
    docs = list(yaml.safe_load_all(text))
    assert list(named(docs, "Namespace")) == [f"faces-{cell}"]
    for version in VERSIONS:
        for doc in docs:
            kubernetes_validate.validate(doc, version, strict=True)


def test_all_cells_are_applied_at_once_and_nothing_is_in_two() -> None:
    docs = list(yaml.safe_load_all(rendered(ROOT / "k8s/cells")))
    things = [(doc["kind"], doc["metadata"].get("namespace"), doc["metadata"]["name"]) for doc in docs]
    assert len(set(things)) == len(things)
    assert set(named(docs, "Namespace")) == {f"faces-{cell}" for cell in CELLS}
    assert len(CELLS) == 2
