"""Is nothing lost in a short storm, and does the proof see it when something is?"""

import os
import subprocess
import sys

import pytest

from tests.pipeline import ROOT


def storm(receipts: str, seed: int) -> subprocess.CompletedProcess[str]:
    """Run a short storm to its end."""
    env = {**os.environ, "FACES": "150", "RECEIPTS": receipts, "SEED": str(seed)}
    command = [sys.executable, "-m", "tests.chaos"]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.timeout(900)
def test_nothing_is_lost_in_a_short_storm(seed: int) -> None:
    ended = storm("on", seed)
    print(ended.stdout, ended.stderr)
    assert ended.returncode == 0
    assert f"seed {seed}: nothing is lost" in ended.stdout


@pytest.mark.timeout(900)
def test_without_receipts_the_same_storm_reports_the_loss() -> None:
    ended = storm("off", seed=1)
    print(ended.stdout, ended.stderr)
    assert ended.returncode == 1
    assert "LOST OR WRONG" in ended.stdout
