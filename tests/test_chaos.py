"""Is nothing lost in a short storm, and does the proof see it when something is?"""

import os
import subprocess
import sys

import pytest

from tests.pipeline import ROOT


def storm(seed: int, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a short storm to its end."""
    env = {**os.environ, "FACES": "150", "SEED": str(seed), **settings}
    command = [sys.executable, "-m", "tests.chaos"]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.timeout(900)
def test_nothing_is_lost_in_a_short_storm(seed: int) -> None:
    ended = storm(seed)
    print(ended.stdout, ended.stderr)
    assert ended.returncode == 0
    assert f"seed {seed}: nothing is lost" in ended.stdout


@pytest.mark.timeout(900)
def test_without_receipts_a_broker_that_loses_its_disk_loses_faces_and_that_is_reported() -> None:
    ended = storm(seed=1, RECEIPTS="off", FAULTS="disk wiped")
    print(ended.stdout, ended.stderr)
    assert ended.returncode == 1
    assert "LOST OR WRONG" in ended.stdout
