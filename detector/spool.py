"""Keeps every face on disk until its receipt says that it lies in the bucket. SQLite, one file a camera."""

import json
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from service import log

from .faces import MAX_BYTES

# No row is ever updated, so a picture is written once. The files of version 0.1 have two columns more, unused
SCHEMA = """
CREATE TABLE IF NOT EXISTS faces (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- rises for ever: never given twice, not even after a restart
    id TEXT NOT NULL UNIQUE, content_type TEXT NOT NULL, properties TEXT NOT NULL,
    bytes INTEGER NOT NULL, payload BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS size ON faces (bytes);  -- a million faces are counted without reading a picture
DROP INDEX IF EXISTS sent;  -- of version 0.1
"""
REMEDIES = {
    "locked": "another detector uses it: give each its own CAMERA_NAME",
    "full|No space": "free some space, or lower SPOOL_MAX_BYTES",
    "malformed|not a database": "move the file away; what is in it can be read with sqlite3",
    "": "give a directory that can be written, by SPOOL",
}


class SpooledFace(NamedTuple):
    id: str
    content_type: str
    properties: dict[str, str]
    payload: bytes


class SpoolError(Exception):
    status = 74  # sysexits.h: EX_IOERR


class Spool:
    """The faces without a receipt, for several threads; SpoolError when the disk is full, read-only or broken."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path, self.max_bytes = path, max_bytes
        self.max_face = MAX_BYTES  # of a picture, until the broker says what it takes
        # Where the camera can wait: called while the spool is full; true ends the waiting
        self.wait: Callable[[], bool] | None = None
        self.wake = threading.Event()  # of who sends: a face was added
        self.dropped = 0
        self.lock = threading.RLock()
        with self.disk():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.db = sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False)
            # Exclusive: a second detector on the same spool would send everything twice
            for setting in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "secure_delete=ON"):
                self.db.execute(f"PRAGMA {setting}")
            self.db.executescript(SCHEMA)
            self.count, self.bytes = self.db.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM faces").fetchone()
            self.newest: int = self.db.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").fetchone()[0]
            # The camera is switched off: a number that SQLite keeps for its users, 0 in a new file
            self.off = self.db.execute("PRAGMA user_version").fetchone() != (0,)

    @contextmanager
    def disk(self) -> Iterator[None]:
        """One thread at a time; an error of SQLite or of the file system says what a person can do."""
        with self.lock:
            try:
                yield
            except (sqlite3.Error, OSError) as error:
                remedy = next(REMEDIES[words] for words in REMEDIES if re.search(words, str(error)))
                raise SpoolError(f"SPOOL={self.path}: {error}; {remedy}") from error

    def add(self, id_: str, content_type: str, properties: Mapping[str, str], payload: bytes) -> None:
        """Put a face on disk; beyond `max_bytes` a camera that can waits, else the oldest go, each said."""
        # One face always fits
        while self.count and self.bytes + len(payload) > self.max_bytes and not (self.wait and self.wait()):
            if not self.wait and (lost := self.oldest()) and self.let_go(lost.id):
                self.dropped += 1
                log("FACE LOST: the spool is full, raise SPOOL_MAX_BYTES", id=lost.id, dropped=self.dropped)
        insert = "INSERT INTO faces (id, content_type, properties, bytes, payload) VALUES (?, ?, ?, ?, ?)"
        with self.disk():
            added = self.db.execute(insert, [id_, content_type, json.dumps(properties), len(payload), payload])
            self.count += 1
            self.bytes += len(payload)
            self.newest = added.lastrowid or 0
        self.wake.set()

    def after(self, seq: int, limit: int) -> list[int]:
        """Give the numbers of the oldest faces after `seq`."""
        query = "SELECT seq FROM faces WHERE seq > ? ORDER BY seq LIMIT ?"
        with self.disk():
            return [number for (number,) in self.db.execute(query, [seq, limit])]

    def get(self, seq: int) -> SpooledFace | None:
        """Give a face; None: it is home already, or was lost."""
        query = "SELECT id, content_type, properties, payload FROM faces WHERE seq=?"
        with self.disk():
            row = self.db.execute(query, [seq]).fetchone()
        return SpooledFace(row[0], row[1], json.loads(row[2]), row[3]) if row else None

    def oldest(self) -> SpooledFace | None:
        return next(map(self.get, self.after(0, 1)), None)

    def let_go(self, id_: str) -> int:
        """Forget a face that lies in the bucket, and give its number; 0: none of ours, or it came twice."""
        with self.disk():
            # What a power cut brings back is only sent twice; nothing that was added may be lost by one
            self.db.execute("PRAGMA synchronous=NORMAL")
            rows = self.db.execute("DELETE FROM faces WHERE id=? RETURNING seq, bytes", [id_]).fetchall()
            self.db.execute("PRAGMA synchronous=FULL")
            seq, size = rows[0] if rows else (0, 0)
            self.count -= len(rows)
            self.bytes -= size
        return int(seq)

    def switch(self, off: bool) -> None:
        """Note, for after a restart, too, whether the camera is switched off."""
        if off != self.off:
            with self.disk():
                self.db.execute(f"PRAGMA user_version={off:d}")
            self.off = off
            log("camera switched", to="off" if off else "on")

    def tidy(self) -> None:
        """Empty the write-ahead log, where pictures that were let go could be read for days."""
        with self.disk():
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def report(self) -> dict[str, int]:
        oldest, now = self.oldest(), datetime.now(timezone.utc)
        cut = datetime.fromisoformat(oldest.properties["captured_at"].replace("Z", "+00:00")) if oldest else now
        age = max(round((now - cut).total_seconds()), 0)
        return {"dropped": self.dropped, "spooled": self.count, "spooled_bytes": self.bytes, "oldest_s": age}
