"""Fetch the YuNet model once, by the address and checksum in detector/Dockerfile: `python -m tests.model`."""

import hashlib
import re
import sys
import urllib.request
from pathlib import Path

MODEL = Path("face.onnx")  # where the detector takes it from


def fetch(url: str, sha256: str, path: Path) -> bool:
    """Bring the file from `url` to `path`, unless it is there; tells whether it is, and says what it does."""
    if path.is_file():
        return True
    print(f"fetching the face detection model into {path}: {url}", flush=True)
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            data = answer.read()
    except OSError as error:
        print(f"the model cannot be had, the Haar cascade finds fewer faces: {error}", flush=True)
        return False
    if hashlib.sha256(data).hexdigest() != sha256:
        print(f"the model is not what it should be, and is left: sha256 differs, {len(data)} bytes", flush=True)
        return False
    path.write_bytes(data)
    return True


def fetch_model() -> bool:
    """Fetch the model that the image has, too."""
    found = dict(re.findall(r"^ARG (MODEL\w*)=(\S+)", Path("detector/Dockerfile").read_text(), re.MULTILINE))
    return fetch(found["MODEL"], found["MODEL_SHA256"], MODEL)


if __name__ == "__main__":
    sys.exit(not fetch_model())
