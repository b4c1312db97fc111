"""How fast does the sink store, and what does it cost, next to plain boto3 with as many threads on the same server?

`make bench`, or `python -m tests.bench.sink`. Both put the same pictures, in turns; MQTT with mutual TLS,
acknowledgements in order and receipts come on top for the sink. The server is nginx, by WebDAV, which is no
bottleneck (moto is one, and hides everything); then the same behind a relay that takes 50 ms an answer.
"""

import bisect
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import numpy as np
from botocore.config import Config
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.pipeline import Pipeline, eventually, free_port, listening, make_certs

FACES, BYTES, THREADS, ROUNDS = 800, 40_000, 8, 5
NGINX = """
daemon off; master_process off; pid {root}/nginx.pid; error_log {root}/nginx.log;
events {{ worker_connections 512; }}
http {{
  log_format at '$msec $uri'; access_log {root}/put.log at;
  client_body_temp_path {root}/body; client_max_body_size 2m; client_body_buffer_size 1m; keepalive_requests 100000;
  server {{ listen 127.0.0.1:{port}; location / {{ root {root}/www; dav_methods PUT; create_full_put_path on; }} }}
}}
"""
RELAY = """
import asyncio, sys
port, target, delay = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
async def pump(source, sink, delay):
    while data := await source.read(2**18):
        await asyncio.sleep(delay)
        sink.write(data)
        await sink.drain()
    sink.close()
async def relay(reader, writer):
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
    await asyncio.gather(pump(reader, far_writer, 0), pump(far_reader, writer, delay), return_exceptions=True)
async def main():
    await (await asyncio.start_server(relay, "127.0.0.1", port)).serve_forever()
asyncio.run(main())
"""


def picture(number: int) -> bytes:
    """Give a JPEG's head with noise behind it, as large as a typical face."""
    head = b"\xff\xd8\xff\xc0\0\x11\x08\0\x80\0\x80"
    return head + np.random.default_rng(number).bytes(BYTES - len(head))


def cpu_of(pid: int) -> float:
    """Give the CPU time in s that a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def start_nginx(parts: Pipeline) -> str:
    """Start a store that takes every PUT, and notes when in put.log; gives its URL. Exits where there is no nginx."""
    if not (nginx := shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")):
        sys.exit("needs nginx: apt-get install nginx-light")
    root, port = parts.directory, free_port()
    root.chmod(0o755)
    (root / "www").mkdir()
    (root / "www").chmod(0o777)  # its workers are another user
    (root / "nginx.conf").write_text(NGINX.format(root=root, port=port))
    parts.start("nginx", nginx, "-c", root / "nginx.conf", "-e", root / "nginx.log")
    eventually(lambda: listening(port))
    return f"http://127.0.0.1:{port}"


def plain_boto3(url: str, prefix: str, pictures: list[bytes]) -> tuple[float, float]:
    """Put all pictures by a pool of threads; gives objects a second, and CPU ms an object."""
    s3 = boto3.client("s3", endpoint_url=url, config=Config(max_pool_connections=THREADS))
    began, cpu = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    with ThreadPoolExecutor(THREADS) as pool:
        for number, body in enumerate(pictures):
            key = f"plain/{prefix}/{number}.jpg"
            pool.submit(s3.put_object, Bucket="faces", Key=key, Body=body, ContentType="image/jpeg")
    took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime
    return len(pictures) / took, 1000 * used / len(pictures)


def sink(parts: Pipeline, url: str, prefix: str, pictures: list[bytes]) -> tuple[float, float, float]:
    """Leave all pictures with the broker, let the sink have them; gives objects a second, CPU ms an object, and
    what part of the receipts had come when half of the objects were stored."""
    listener = f"listener-{prefix}"
    ca, crt, key = (str(parts.certs / "jetson-01" / name) for name in ("ca.crt", "tls.crt", "tls.key"))
    # a process of its own, which does not share a lock with us
    options = ["-V", "5", "-q", "1", "-F", "%U", "-t", f"receipts/jetson-01/{prefix}", "-h", "localhost"]
    parts.start(
        listener, "mosquitto_sub", "-p", str(parts.sink_port), *options, "--cafile", ca, "--cert", crt, "--key", key
    )

    def receipts() -> list[float]:
        return [float(line) for line in parts.log(listener).splitlines()]

    device = parts.client(parts.cloud_port, "jetson-01")
    parts.stop("s3sink")
    for number, body in enumerate(pictures):
        words = Properties(PacketTypes.PUBLISH)
        words.UserProperty = [("id", f"{number:016x}"), ("captured_at", "2026-11-22T12:00:00.000Z")]
        sent = device.publish(f"faces/jetson-01/{prefix}", body, qos=1, properties=words)
    sent.wait_for_publish(60)
    device.disconnect()
    (parts.directory / "put.log").write_text("")
    parts.sink(S3_UPLOADS=str(THREADS), AWS_ENDPOINT_URL_S3=url)
    pid = parts.running["s3sink"].pid
    eventually(receipts, 60)
    cpu, already = cpu_of(pid), len(receipts())
    eventually(lambda: len(receipts()) == len(pictures), 300)
    used = (cpu_of(pid) - cpu) / (len(pictures) - already)
    stored = sorted(float(line.split()[0]) for line in (parts.directory / "put.log").read_text().splitlines())
    rate = (len(stored) - 1) / (stored[-1] - stored[0])
    return rate, 1000 * used, bisect.bisect(receipts(), stored[len(stored) // 2]) / len(pictures)


def main() -> None:
    """Print rates and CPU of each round on both servers, and the medians of their ratios."""
    pictures = [picture(number) for number in range(FACES)]
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    make_certs(directory / "certs", "server", "sink", "device jetson-01")
    parts = Pipeline(directory, directory / "certs")
    os.environ |= {name: value for name, value in parts.env.items() if name.startswith("AWS_")}
    slow = free_port()
    try:
        url = start_nginx(parts)
        parts.start("relay", sys.executable, "-c", RELAY, str(slow), url.rpartition(":")[2], "0.05")
        eventually(lambda: listening(slow))
        parts.cloud()
        parts.sink(AWS_ENDPOINT_URL_S3=url)
        eventually(lambda: "connected:" in parts.log("s3sink"))
        for name, at in (("nginx", url), ("nginx, 50 ms an answer", f"http://127.0.0.1:{slow}")):
            measure(parts, name, at, pictures)
    finally:
        parts.end()
        shutil.rmtree(directory)


def measure(parts: Pipeline, name: str, url: str, pictures: list[bytes]) -> None:
    """Print both on one server."""
    print(f"{name}: {FACES} pictures of {BYTES} bytes, {THREADS} threads")
    print(
        f"{'round':>5}{'boto3/s':>10}{'sink/s':>10}{'boto3 ms':>10}{'sink ms':>10}{'receipts at half':>18}", flush=True
    )
    rows: list[Any] = []
    for number in range(ROUNDS):
        peer, peer_cpu = plain_boto3(url, f"r{number}", pictures)
        ours, our_cpu, half = sink(parts, url, f"{url[-5:]}-{number}", pictures)
        rows.append((ours / peer, our_cpu / peer_cpu, half))
        print(f"{number:5}{peer:10.0f}{ours:10.0f}{peer_cpu:10.2f}{our_cpu:10.2f}{half:18.2f}", flush=True)
    rate, cpu, half = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"medians: {rate:.2f} of plain boto3's rate, {cpu:.2f} of its CPU, {half:.2f} of the receipts at half\n")


if __name__ == "__main__":
    main()
