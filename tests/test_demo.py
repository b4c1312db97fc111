"""Does `make demo` show a newcomer the whole pipeline, and leave nothing behind?"""

import os
import pty
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.pipeline import ROOT, Pipeline, eventually, free_port
from tests.test_gallery import CHROMIUM, chromium, until


def demo(**env: str) -> subprocess.CompletedProcess[str]:
    """Run `make demo` without a terminal, to its end."""
    return subprocess.run(
        ["make", "demo"],
        env={**os.environ, **env},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def left_behind() -> list[str]:
    """Give the processes that a demo in this checkout has left running; Linux only."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended meanwhile, or another user's
            of_a_demo = b"VAR=var/demo\0" in (process / "environ").read_bytes()
            if of_a_demo and (process / "cwd").readlink() == ROOT:
                found.append((process / "cmdline").read_text())
    return found


def shown_in_the_readme() -> list[str]:
    """Give a pattern for each line that the README says the demo prints: other numbers and ids, the same words."""
    block = (ROOT / "README.md").read_text().partition("$ make demo\n")[2].partition("```")[0]
    lines = [re.escape(line).replace(r"\.\.\.", ".*") for line in block.splitlines() if line != "..."]
    return [
        re.sub(r"[0-9a-f]{16}|\d+", lambda it: "[0-9a-f]{16}" if len(it[0]) == 16 else r"\d+", line) for line in lines
    ]


def faces_in_gallery(url: str) -> int:
    """Open the demo's gallery as a person would, and count the faces in it; no console error is allowed."""
    with chromium() as browser, browser.new_context() as context:
        page = context.new_page()
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(url)
        until(page, "parseInt(document.querySelector('#count').textContent) > 1")
        until(page, "[...document.querySelectorAll('.tile img')].every(image => image.naturalWidth)")
        assert not errors
        return int((page.locator("#count").text_content() or "").split()[0])


def test_a_demo_without_a_terminal_ends_with_all_faces_stored() -> None:
    ended = demo()
    print(ended.stdout, ended.stderr)
    assert ended.returncode == 0
    match = re.search(r"^(\d+) faces published, (\d+) stored$", ended.stdout, re.M)
    assert match
    assert match[1] == match[2]
    assert int(match[1]) >= 8
    assert re.search(r"^Look at them: http://127\.0\.0\.1:\d+/faces/index\.html$", ended.stdout, re.M)
    assert left_behind() == []
    assert len(shown_in_the_readme()) == 6
    for pattern in shown_in_the_readme():
        assert re.search(f"^{pattern}$", ended.stdout, re.M), pattern


def test_a_demo_of_one_s_own_pictures(folder_of: Callable[[int], Path]) -> None:
    ended = demo(CAMERA=str(folder_of(4)), CAMERA_NAME="own", FACE_INTERVAL="0")
    print(ended.stdout, ended.stderr)
    assert ended.returncode == 0
    assert re.search(r"^4 faces published, 4 stored$", ended.stdout, re.M)


def test_a_demo_behind_a_proxy_sends_it_nothing_of_its_own(folder_of: Callable[[int], Path]) -> None:
    # a port where nobody listens: whoever asks the proxy fails
    away = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), f"http://127.0.0.1:{free_port()}")
    ended = demo(CAMERA=str(folder_of(2)), CAMERA_NAME="proxy", FACE_INTERVAL="0", no_proxy="example.org", **away)
    print(ended.stdout, ended.stderr)
    assert ended.returncode == 0
    assert re.search(r"^2 faces published, 2 stored$", ended.stdout, re.M)


def test_a_demo_into_a_bucket_of_one_s_own(pipeline: Pipeline, folder_of: Callable[[int], Path]) -> None:
    pipeline.s3_server()
    own = {name: value for name, value in pipeline.env.items() if name.startswith(("AWS_", "S3_"))}
    ended = demo(CAMERA=str(folder_of(3)), CAMERA_NAME="bucket", FACE_INTERVAL="0", **own)
    print(ended.stdout, ended.stderr)
    assert ended.returncode == 0
    assert "s3.1 " not in ended.stdout  # no local S3
    assert f"Look at them: {pipeline.s3_url}/faces/index.html" in ended.stdout
    assert len(pipeline.bucket_keys("faces/jetson-01/bucket/")) == 3


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"CAMERA": "/nonexistent.mp4"}, "CAMERA=/nonexistent.mp4: there is no /nonexistent.mp4"),
        ({"FACE_FORMAT": "gif"}, "FACE_FORMAT=gif: give jpg or png"),
    ],
)
def test_a_mistake_ends_the_demo_and_names_it(env: dict[str, str], said: str) -> None:
    ended = demo(**env)
    assert ended.returncode != 0
    assert said in ended.stdout
    assert left_behind() == []


@pytest.mark.skipif(not shutil.which("apt-get"), reason="needs apt-get")
def test_who_is_not_root_and_has_no_sudo_is_told_what_to_ask_for(tmp_path: Path) -> None:
    for name in ("sh", "uname", "grep", "env", "apt-get", "openssl", "mosquitto_pub"):
        (tmp_path / name).symlink_to(shutil.which(name) or "/nonexistent")
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    # a Python that has no venv
    env = {"PATH": str(tmp_path), "PYTHON": "false"}
    ended = subprocess.run([ROOT / "tests/system"], env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == (
        "tests/system: packages are missing, and there is no sudo; "
        "as root: apt-get update && apt-get install -y --no-install-recommends python3-venv\n"
    )


# what Ctrl-C sends, and what a shell sends to its jobs when its window is closed
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGHUP])
def test_on_a_terminal_it_stays_up_until_ctrl_c_or_the_window_is_closed(
    folder_of: Callable[[int], Path], how: signal.Signals
) -> None:
    ours, theirs = pty.openpty()
    env = {**os.environ, "CAMERA": str(folder_of(2)), "CAMERA_NAME": "tty", "FACE_INTERVAL": "0", "BROWSER": "true"}
    running = subprocess.Popen(
        ["make", "demo"], env=env, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.set_blocking(ours, False)
    shown = b""

    def has_ended() -> bool:
        nonlocal shown
        try:
            shown += os.read(ours, 65536)
        except BlockingIOError:
            return False
        return b"Ctrl-C ends it." in shown

    try:
        eventually(has_ended, 90)
        assert b"2 faces published, 2 stored" in shown
        assert running.poll() is None
        if CHROMIUM:
            match = re.search(rb"Look at them: (\S+)", shown)
            assert match
            assert faces_in_gallery(match[1].decode()) == 2
        os.killpg(running.pid, how)
        assert running.wait(90) is not None
        eventually(lambda: left_behind() == [], 60)
    finally:
        print(shown.decode(errors="replace"))
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGTERM)
            running.wait(30)


@pytest.mark.parametrize(("told", "said"), [("3.08 True", "Python 3.10 or newer"), ("3.11 False", "a 64-bit system")])
def test_a_machine_that_is_not_supported_is_told_before_anything_is_installed(
    told: str, said: str, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {told}\n")
    python.chmod(0o755)
    ended = subprocess.run(
        [ROOT / "tests/system"], env={**os.environ, "PYTHON": str(python)}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert said in ended.stderr
    assert not ended.stdout
