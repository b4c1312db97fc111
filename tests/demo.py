"""The whole pipeline on this machine: `make demo`.

honcho runs the Procfile; this reads along, and at the end compares what the detector published with what the
bucket holds.
"""

import fcntl
import os
import re
import signal
import subprocess
import sys
import webbrowser
from collections.abc import Iterator, Mapping
from pathlib import Path

from dotenv import load_dotenv

from s3sink.bucket import gallery_url
from s3sink.s3 import s3_client
from tests.clip import make_clip
from tests.model import fetch_model
from tests.pipeline import eventually, free_port, listening

VAR = Path("var/demo")
DEVICE = "jetson-01"  # as in mosquitto/edge/mosquitto.conf


def environment() -> dict[str, str]:
    """Give the environment of the six processes; what the user has set, also in `.env`, stays as it is."""
    load_dotenv(".env")
    # All starts at once, so the first faces may reach the cloud before the sink has ever subscribed
    quick = {"RESEND_AFTER": "3", "STATUS_INTERVAL": "1"}
    env = {"CAMERA_NAME": "cam0", "AWS_REGION": "us-east-1", **quick, **os.environ}
    for port in ("EDGE_PORT", "CLOUD_PORT", "SINK_PORT", "S3_PORT"):
        env.setdefault(port, str(free_port()))
    # The demo's own edge broker, whatever `.env` says of another one
    env |= {"MQTT_HOST": "localhost", "MQTT_PORT": env["EDGE_PORT"], "MQTT_CERTS": "", "MQTT_CLIENT_ID": ""}
    env |= {"VAR": str(VAR), "SPOOL": str(VAR / "spool"), "PYTHONUNBUFFERED": "1"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    if not env.get("S3_BUCKET"):
        env |= {"S3_BUCKET": "faces", "S3_PUBLIC": "1", "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{env['S3_PORT']}"}
        env |= {"AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo"}
    return env


def has_local_s3(env: Mapping[str, str]) -> bool:
    """Tell whether the bucket is on this machine, in an S3 server of the demo's own."""
    return env.get("AWS_ENDPOINT_URL_S3", "").endswith(f":{env['S3_PORT']}")


def processes(env: Mapping[str, str]) -> list[str]:
    """Give the Procfile's processes, without the local S3 where the bucket is elsewhere."""
    everything = [line.partition(":")[0] for line in Path("Procfile").read_text().splitlines()]
    return [name for name in everything if has_local_s3(env) or name != "s3"]


def await_s3() -> None:
    """Wait for the local S3, which starts at the same time as all else; called from the Procfile."""
    if has_local_s3(os.environ):
        eventually(lambda: listening(int(os.environ["S3_PORT"])))


def stored_ids(bucket: str, camera: str) -> set[str]:
    """Give the ids of this camera's faces in the bucket."""
    pages = s3_client(1).get_paginator("list_objects_v2")
    listed = pages.paginate(Bucket=bucket, Prefix=f"faces/{DEVICE}/{camera}/")
    keys = [item["Key"] for page in listed for item in page.get("Contents", [])]
    return {match[1] for key in keys if (match := re.search(r"-([0-9a-f]{16})\.\w+$", key))}


def summary(published: set[str], env: dict[str, str]) -> int:
    """Print what was published and what is stored, and where to look; gives the exit status."""
    missing = published - stored_ids(env["S3_BUCKET"], env["CAMERA_NAME"])
    print(f"\n{len(published)} faces published, {len(published) - len(missing)} stored")
    if missing:
        print("missing:", *sorted(missing))
    url = gallery_url(s3_client(1), env["S3_BUCKET"])
    print(f"Look at them: {url}")
    if sys.stdin.isatty() and not missing:
        webbrowser.open(url)
    return 1 if missing else 0


def follow(lines: Iterator[str], published: set[str]) -> bool:
    """Pass the processes' lines on, and note the faces, until the detector is done; tells whether it is."""
    for line in lines:
        if not re.search(r'^\S+ s3\S* .*" 20\d ', line):  # moto says every request
            print(line, end="", flush=True)
        if match := re.search(r"detector\S*\s*\| face: id=([0-9a-f]{16})", line):
            published.add(match[1])
        if re.search(r"detector\S*\s*\| done:", line):
            return True
    return False


def make_clip_once(path: Path) -> Path:
    """Make the clip where it is not there yet, or was made by another version; give its path."""
    if not path.exists() or path.stat().st_mtime < Path("tests/clip.py").stat().st_mtime:
        print(f"making a clip of two people: {path}", flush=True)
        make_clip(path.with_suffix(".new.mp4"))
        path.with_suffix(".new.mp4").replace(path)
    return path


def stop_all(running: subprocess.Popen[str]) -> None:
    """End honcho, which ends its processes; nothing is left behind."""
    if running.poll() is None:
        running.terminate()
        try:
            running.communicate(timeout=20)  # reads on: who cannot print cannot end
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)


def main() -> int:
    """Run the pipeline until the video has ended, or Ctrl-C; gives the exit status."""
    env = environment()
    os.environ |= env
    VAR.mkdir(parents=True, exist_ok=True)
    lock = (VAR / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("another demo runs here: end it with Ctrl-C", file=sys.stderr)
        return 2
    if not env.get("FACE_MODEL"):
        fetch_model()
    if not env.get("CAMERA"):
        os.environ["CAMERA"] = str(make_clip_once(VAR / "clip.mp4"))
    honcho = [sys.executable, "-m", "honcho", "--env", os.devnull, "start", *processes(env)]
    running = subprocess.Popen(honcho, stdout=subprocess.PIPE, text=True, start_new_session=True)
    # Ctrl-C is for us alone: the bucket must be there to be compared. A closed window ends all of it, too
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    published: set[str] = set()
    try:
        try:
            done = follow(iter(running.stdout or ()), published)
        except KeyboardInterrupt:
            done = True
        status = summary(published, env) if done else running.wait() or 1
        if done and sys.stdin.isatty():
            print("Ctrl-C ends it.")
            follow(iter(running.stdout or ()), published)
    except KeyboardInterrupt:
        print()
    finally:
        stop_all(running)
    return status


if __name__ == "__main__":
    sys.exit(main())
