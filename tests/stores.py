"""S3 servers of two kinds: moto, which believes everybody, and Ceph's radosgw, which checks who asks.

Debian 13 has the package radosgw; tests/docker/run starts one in a container. RADOSGW says where it is:
http://KEY:SECRET@127.0.0.1:PORT. Its second user, `role`, owns no bucket; key roleKEY, and the same secret.
"""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config

from tests.pipeline import ROOT, eventually, free_port, listening


class Store:
    """An S3 server, and what one of its users runs against it."""

    def __init__(self, url: str, key: str, secret: str) -> None:
        self.url = url
        self.keys = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        self.is_moto = not os.environ.get("RADOSGW") or url not in without_keys(os.environ["RADOSGW"])

    def client(self, role: bool = False) -> Any:
        """Give an S3 client of the test's own, of the owner or of the second user."""
        config = Config(request_checksum_calculation="when_required", retries={"total_max_attempts": 1})
        key, secret = self.keys.values()
        session = boto3.Session(f"role{key}" if role else key, secret, region_name="us-east-1")
        return session.client("s3", endpoint_url=self.url, config=config)

    def env(self, bucket: str, **changed: str) -> dict[str, str]:
        """Give the environment of a program that uses a bucket here."""
        base = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "AWS_REGION": "us-east-1", **self.keys}
        return {**base, "AWS_ENDPOINT_URL_S3": self.url, "S3_BUCKET": bucket, **changed}

    def prepare(self, bucket: str, status: int = 0, /, **changed: str) -> str:
        """Run `python -m s3sink.bucket`, which must end with that status; gives what it printed."""
        command = [sys.executable, "-m", "s3sink.bucket"]
        ended = subprocess.run(
            command, cwd=ROOT, env=self.env(bucket, **changed), capture_output=True, text=True, check=False
        )
        said = ended.stdout + ended.stderr
        assert ended.returncode == status, said
        assert "Traceback" not in said
        return said

    def anonymous(self, path: str) -> int:
        """Give the status with which somebody without credentials is answered."""
        try:
            with urllib.request.urlopen(f"{self.url}/{path}", timeout=20) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            return refused.code


def without_keys(url: str) -> str:
    """Give an address without the user and the password in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port}"


def answers(store: Store) -> bool:
    """Tell whether it answers; the port of a container listens before that."""
    try:
        return store.anonymous("") > 0
    except OSError:
        return False


@contextmanager
def running(kind: str) -> Iterator[Store]:
    """Start moto, or find the radosgw; skips the test where there is none."""
    if kind == "radosgw":
        if not os.environ.get("RADOSGW"):
            pytest.skip("RADOSGW= names none; tests/docker/run starts one")
        parts = urlsplit(os.environ["RADOSGW"])
        store = Store(without_keys(os.environ["RADOSGW"]), parts.username or "", parts.password or "")
        eventually(lambda: answers(store), 60)
        yield store
        return
    port = free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], **quiet)  # type: ignore[call-overload]
    try:
        eventually(lambda: listening(port))
        yield Store(f"http://127.0.0.1:{port}", "owner", "secret")
    finally:
        server.kill()
        server.wait()
