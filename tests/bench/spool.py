"""What do a million faces without a receipt cost? `python -m tests.bench.spool`, or `make bench`.

The real spool and delivery, woken as by 40 s of a camera at 25 frames/s that sees nobody, no receipts.
FACES= (1000000) says how many there are; each picture is 1 kB.
"""

import os
import resource
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from detector.delivery import Delivery
from detector.spool import Spool

SECONDS = 40.0


def fill(path: Path, faces: int) -> None:
    """Spool many faces without syncing each to disk."""
    spool = Spool(path, 10**12)
    words = f'{{"captured_at": "2026-11-22T10:20:30.456Z", "box": "{chr(120) * 200}"}}'
    rows = ((f"{n * 2654435761 % 2**32:016x}", "image/jpeg", words, 1000, bytes(1000)) for n in range(faces))
    spool.db.execute("BEGIN")
    spool.db.executemany(
        "INSERT INTO faces (id, content_type, properties, bytes, payload) VALUES (?, ?, ?, ?, ?)", rows
    )
    spool.db.execute("COMMIT")
    spool.db.close()


def measure(path: Path) -> tuple[float, float, float]:
    """Give seconds to open, CPU seconds of SECONDS of frames, and MiB of peak memory so far."""
    began = time.monotonic()
    spool = Spool(path, 10**12)
    opened = time.monotonic() - began
    client: Any = SimpleNamespace(
        is_connected=lambda: True, publish=lambda *_args, **_words: SimpleNamespace(mid=0), ack=lambda *_: None
    )
    delivery = Delivery(spool, "cam0", True, 60, time.monotonic)
    delivery.bridge_up = True
    began_cpu, frames = time.process_time(), int(SECONDS * 25)
    for number in range(frames):
        delivery.step(client)
        if number % 250 == 0:
            spool.report()
    cpu = time.process_time() - began_cpu
    spool.db.close()
    return opened, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure an empty spool, then a full one, and print both."""
    faces = int(os.environ.get("FACES") or 1_000_000)
    print(f"{'faces':>10}{'open, s':>10}{'CPU of a core, %':>18}{'peak memory, MiB':>18}")
    with tempfile.TemporaryDirectory() as directory:
        for count in (0, faces):
            path = Path(directory, f"{count}.db")
            fill(path, count)
            opened, cpu, memory = measure(path)
            print(f"{count:10}{opened:10.2f}{100 * cpu / SECONDS:18.2f}{memory:18.1f}", flush=True)


if __name__ == "__main__":
    main()
