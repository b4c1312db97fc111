"""Does a camera that is switched off see nothing, and say so, whatever restarts, until it is switched on?"""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.mjpeg import Stream, camera_server
from tests.pipeline import ROOT, Pipeline, eventually

Order = Callable[[str], int]
PAGE = (ROOT / "docs/privacy.md").read_text().partition("\n## Switching a camera off\n")[2]

pytestmark = pytest.mark.skipif(not shutil.which("mosquitto_pub"), reason="needs mosquitto-clients")


@pytest.fixture
def order(pipeline: Pipeline, tmp_path: Path) -> Order:
    """Let a user switch the cameras of the edge, as the page on operations says; gives what does it."""
    pipeline.mosquitto = shutil.copytree(ROOT / "mosquitto", tmp_path / "mosquitto")
    edge = pipeline.mosquitto / "edge"
    subprocess.run(["mosquitto_passwd", "-c", "-b", edge / "passwords", "home", "secret"], check=True)
    who, asked = re.findall(r"^```\n((?:user|password_file) .*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for name, lines in (("acl", who), ("mosquitto.conf", asked.replace("/mosquitto/config", str(edge)))):
        with (edge / name).open("a") as file:
            file.write(lines)
    (command,) = re.findall(r"^\$ mosquitto_pub( .*) -m off$", PAGE, re.MULTILINE)

    def give(word: str) -> int:
        typed = f"mosquitto_pub -p {pipeline.edge_port} {command} " + (f"-m {word}" if word else "-n")
        return subprocess.run(typed, shell=True, env={**pipeline.env, "PASSWORD": "secret"}, check=False).returncode

    return give


def faces(pipeline: Pipeline) -> int:
    return len(re.findall(r"^face: ", pipeline.log("detector"), re.MULTILINE))


def test_an_open_camera_is_let_go_and_stays_so_over_restarts(
    pipeline: Pipeline, order: Order, photo: np.ndarray
) -> None:
    pipeline.all_but_detector()
    said = pipeline.listen("status/detector/cam0", pipeline.edge_port)
    stream = Stream(fps=10, picture=lambda number: np.roll(photo, 7 * number, axis=1))
    with camera_server(stream) as port:
        url = f"http://127.0.0.1:{port}/"
        pipeline.detector(url)
        eventually(pipeline.bucket_keys)
        pipeline.kill("s3sink")
        eventually(lambda: re.search(rb'"spooled": [1-9]', said[-1].payload))
        assert order("off") == 0
        eventually(lambda: b'"state": "off"' in said[-1].payload and b'"camera": "closed"' in said[-1].payload)
        eventually(lambda: stream.reading == 0)
        cut, readers = faces(pipeline), stream.readers

        assert order("of") == 0
        eventually(lambda: "order not understood, give off or on" in pipeline.log("detector"))
        pipeline.sink()
        eventually(lambda: len(pipeline.bucket_keys()) == cut)  # what waits goes home all the same
        pipeline.kill("detector")
        eventually(lambda: b'"at"' not in said[-1].payload)  # the last will
        assert order("off") == 0
        pipeline.detector(url)
        eventually(lambda: b'"state": "off"' in said[-1].payload)
        pipeline.kill("detector")
        pipeline.stop("edge")
        pipeline.detector(url)
        lines = pipeline.log("detector").count("watching:")
        eventually(lambda: pipeline.log("detector").count("watching:") > lines + 15)  # no broker in 7 s
        assert (faces(pipeline), stream.readers) == (cut, readers)

        pipeline.edge()
        status = [sys.executable, "-m", "logger", "--status"]
        env = {**pipeline.env, "MQTT_PORT": str(pipeline.edge_port)}

        def shown() -> subprocess.CompletedProcess[str]:
            return subprocess.run(status, env=env, cwd=ROOT, capture_output=True, text=True, check=False)

        eventually(lambda: re.search(r"detector +cam0 +off", shown().stdout))
        eventually(lambda: shown().returncode == 0)
        assert (faces(pipeline), stream.readers) == (cut, readers)
        assert order("on") == 0
        eventually(lambda: stream.reading == 1 and faces(pipeline) > cut)
        assert re.findall(r"^camera switched: to=(\w+)", pipeline.log("detector"), re.MULTILINE) == ["off", "on"]
        pipeline.stop("detector", signal.SIGTERM)


def test_what_was_ordered_while_the_detector_was_away_is_heeded_before_the_first_face(
    pipeline: Pipeline, order: Order, folder_of: Callable[[int], Path]
) -> None:
    pipeline.all_but_detector()
    said = pipeline.listen("status/detector/cam0", pipeline.edge_port)
    assert order("off") == 0
    detector = pipeline.detector(folder_of(3))
    eventually(lambda: said and b'"state": "off"' in said[-1].payload)
    assert faces(pipeline) == 0
    assert order("") == 0  # cleared
    assert detector.wait(60) == 0
    assert faces(pipeline) == len(pipeline.bucket_keys()) > 0


def test_a_camera_that_was_on_goes_on_without_a_broker(pipeline: Pipeline, folder_of: Callable[[int], Path]) -> None:
    pipeline.detector(folder_of(3))
    eventually(lambda: faces(pipeline) > 0)
