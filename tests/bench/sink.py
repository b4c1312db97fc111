"""How fast does the sink store, next to plain boto3 with as many threads on the same server? `make bench`.

Both put the same pictures, in turns; MQTT with mutual TLS, acknowledgements in order and receipts come on top
for the sink. The server is moto, whose speed does not matter: only the ratio is of interest.
"""

import os
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from s3sink.store import s3_client
from tests.pipeline import Pipeline, eventually, make_certs

FACES, BYTES, THREADS, ROUNDS = 400, 40_000, 8, 5


def picture(number: int) -> bytes:
    """Give a JPEG's two ends with noise between, as large as a typical face."""
    head = b"\xff\xd8\xff\xc0\0\x11\x08\0\x80\0\x80"
    return head + np.random.default_rng(number).bytes(BYTES - len(head) - 2) + b"\xff\xd9"


def plain_boto3(s3: Any, prefix: str, pictures: list[bytes]) -> float:
    """Put all pictures by a pool of threads, and give the objects a second."""
    began = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        for number, body in enumerate(pictures):
            key = f"plain/{prefix}/{number}.jpg"
            pool.submit(s3.put_object, Bucket="faces", Key=key, Body=body, ContentType="image/jpeg")
    return len(pictures) / (time.monotonic() - began)


def sink(parts: Pipeline, prefix: str, pictures: list[bytes]) -> float:
    """Leave all pictures with the broker, let the sink have them, and give the objects a second."""
    stored: list[float] = []
    parts.listen(f"receipts/jetson-01/{prefix}", parts.sink_port, "jetson-01")
    parts.clients[-1].on_message = lambda *_: stored.append(time.monotonic())
    device = parts.client(parts.cloud_port, "jetson-01")
    parts.stop("s3sink")
    for number, body in enumerate(pictures):
        words = Properties(PacketTypes.PUBLISH)
        words.UserProperty = [("id", f"{number:016x}")]
        sent = device.publish(f"faces/jetson-01/{prefix}", body, qos=1, properties=words)
    sent.wait_for_publish(60)
    device.disconnect()
    parts.sink(S3_UPLOADS=str(THREADS))
    eventually(lambda: len(stored) == len(pictures), 120)
    return (len(stored) - 1) / (stored[-1] - stored[0])


def main() -> None:
    """Print both rates of each round, and the median of their ratios."""
    pictures = [picture(number) for number in range(FACES)]
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    make_certs(directory / "certs", "server", "sink", "device jetson-01")
    parts = Pipeline(directory, directory / "certs")
    os.environ |= {name: value for name, value in parts.env.items() if name.startswith("AWS_")}
    try:
        parts.s3_server()
        parts.cloud()
        parts.sink()
        eventually(lambda: "connected:" in parts.log("s3sink"))
        ratios = []
        print(f"{FACES} pictures of {BYTES} bytes, {THREADS} threads\nround  plain boto3/s  s3sink/s  ratio")
        for number in range(ROUNDS):
            plain = plain_boto3(s3_client(THREADS), f"r{number}", pictures)
            ours = sink(parts, f"r{number}", pictures)
            ratios.append(ours / plain)
            print(f"{number:5}{plain:15.0f}{ours:10.0f}{ratios[-1]:7.2f}", flush=True)
        print(f"s3sink reaches {statistics.median(ratios):.2f} of plain boto3 (median)")
    finally:
        parts.end()
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
