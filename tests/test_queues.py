"""Does everything come home by itself when it is ten times what the edge's queue holds?"""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos import answers
from tests.faults import Wan
from tests.pipeline import ROOT, Pipeline, eventually

QUEUE = 150_000  # bytes; the frames hold ten times as much in faces
FRAMES = 90


@pytest.fixture
def small(pipeline: Pipeline, tmp_path: Path) -> Pipeline:
    """The shipped brokers, but for an edge's queue and a window of a few faces."""
    pipeline.mosquitto = tmp_path / "mosquitto"
    shutil.copytree(ROOT / "mosquitto", pipeline.mosquitto)
    for name, limit in (("max_queued_bytes", QUEUE), ("max_inflight_messages", 5)):
        for side in ("edge", "cloud") if name == "max_inflight_messages" else ("edge",):
            conf = pipeline.mosquitto / side / "mosquitto.conf"
            text, changed = re.subn(rf"^{name} .*", f"{name} {limit}", conf.read_text(), flags=re.MULTILINE)
            assert changed == 1
            conf.write_text(text)
    return pipeline


@pytest.fixture
def wan(small: Pipeline) -> Iterator[Wan]:
    """The network between the edge and the cloud."""
    between = Wan(small.cloud_port)
    small.s3_server()
    small.cloud()
    small.sink()
    small.edge(CLOUD_ADDRESS=f"localhost:{between.port}")
    small.await_bridge()
    yield between
    between.close()


def all_home(pipeline: Pipeline, wan: Wan) -> None:
    """Each face that was cut is one object, and the detector has let go of all; some were dropped."""

    def ended() -> bool:
        # Mosquitto 2.0.11 can hang for ever when its bridge was cut: so does the liveness probe
        if not answers(pipeline.edge_port, None):
            pipeline.kill("edge")
            pipeline.edge(CLOUD_ADDRESS=f"localhost:{wan.port}")
        return pipeline.running["detector"].poll() is not None

    eventually(ended, 200)
    assert pipeline.running["detector"].poll() == 0
    cut = set(re.findall(r"^face: id=(\w+)", pipeline.log("detector"), re.MULTILINE))
    stored = [re.sub(r".*-(\w{16})\.\w+$", r"\1", key) for key in pipeline.bucket_keys()]
    assert sorted(stored) == sorted(cut)
    assert cut
    assert "being dropped for client bridge-to-cloud" in pipeline.log("edge")


def cut_bytes(pipeline: Pipeline) -> int:
    """Give how much the detector has cut; who listens at the broker has a queue that drops, too."""
    return sum(map(int, re.findall(r"^face: .* bytes=(\d+)", pipeline.log("detector"), re.MULTILINE)))


def test_an_outage_of_ten_times_the_queue(small: Pipeline, wan: Wan, folder_of: Callable[[int], Path]) -> None:
    wan.state = "cut"
    small.detector(folder_of(FRAMES), FACE_FORMAT="png", FACE_INTERVAL="0")
    eventually(lambda: cut_bytes(small) > 10 * QUEUE)
    wan.state = "up"
    all_home(small, wan)


def test_a_wan_that_is_never_cut_and_slower_than_the_camera(
    small: Pipeline, wan: Wan, folder_of: Callable[[int], Path]
) -> None:
    wan.rate = 20_000
    small.detector(folder_of(FRAMES), FACE_FORMAT="png", FACE_INTERVAL="0")
    # however slowly a busy machine cuts, the queue runs over; then it goes on faster, or it would take minutes
    eventually(lambda: "being dropped for client bridge-to-cloud" in small.log("edge"))
    wan.rate = 100_000
    all_home(small, wan)
