"""Keeps every face on disk until its receipt says that it lies in the bucket. SQLite, one file a camera."""

import json
import sqlite3
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from service import log

SCHEMA = """
CREATE TABLE IF NOT EXISTS faces (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- rises for ever: never given twice, not even after a restart
    id TEXT NOT NULL UNIQUE,
    content_type TEXT NOT NULL,
    properties TEXT NOT NULL,
    payload BLOB NOT NULL,
    bytes INTEGER NOT NULL,
    sent_at REAL,  -- monotonic s, of the last PUBACK; NULL: to be sent
    resent INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS sent ON faces (sent_at, seq);
"""


class SpooledFace(NamedTuple):
    """One face that has no receipt yet."""

    seq: int
    id: str
    content_type: str
    properties: dict[str, str]
    payload: bytes


class SpoolError(Exception):
    """The disk does not take a face; says what to do."""


class Spool:
    """The faces without a receipt, oldest first; for several threads.

    All methods raise SpoolError when the disk is full, read-only or broken.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.dropped = 0
        self.lock = threading.RLock()
        with self:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.db = sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False)
            # Exclusive: a second detector on the same spool would send everything twice
            self.db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self.db.execute("PRAGMA journal_mode=WAL")
            self.db.execute("PRAGMA synchronous=NORMAL")
            self.db.executescript(SCHEMA)
            # The monotonic clock starts anew with the machine
            self.db.execute("UPDATE faces SET sent_at=? WHERE sent_at IS NOT NULL", [time.monotonic()])
            self.count, self.bytes = self.db.execute("SELECT count(*), total(bytes) FROM faces").fetchone()

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.lock.release()
        if isinstance(error, sqlite3.Error | OSError):
            raise SpoolError(f"SPOOL={self.path}: {error}; {remedy(str(error))}") from error

    def add(self, id_: str, content_type: str, properties: Mapping[str, str], payload: bytes) -> None:
        """Put a face on disk; where that exceeds `max_bytes`, the oldest go, and each is said."""
        with self:
            while self.count and self.bytes + len(payload) > self.max_bytes:
                self._drop_oldest()
            # A power cut takes nothing that was added; to forget a receipt only costs sending twice
            self.db.execute("PRAGMA synchronous=FULL")
            self.db.execute(
                "INSERT INTO faces (id, content_type, properties, payload, bytes) VALUES (?, ?, ?, ?, ?)",
                [id_, content_type, json.dumps(properties), payload, len(payload)],
            )
            self.db.execute("PRAGMA synchronous=NORMAL")
            self.count += 1
            self.bytes += len(payload)

    def nearly_full(self) -> bool:
        """Tell whether the next few faces might push the oldest out."""
        return bool(self.bytes > 0.9 * self.max_bytes)

    def unsent(self, under_way: Collection[int], limit: int) -> list[SpooledFace]:
        """Give the oldest faces to be sent, but for those whose `seq` is under way already."""
        marks = ",".join("?" * len(under_way))
        query = (
            "SELECT seq, id, content_type, properties, payload FROM faces "  # noqa: S608 question marks only
            f"WHERE sent_at IS NULL AND seq NOT IN ({marks}) ORDER BY seq LIMIT ?"
        )
        with self:
            rows = self.db.execute(query, [*under_way, limit]).fetchall()
        return [SpooledFace(seq, id_, kind, json.loads(words), data) for seq, id_, kind, words, data in rows]

    def sent(self, seq: int, now: float) -> None:
        """Note that the edge's broker has taken a face, at `now` monotonic s."""
        with self:
            self.db.execute("UPDATE faces SET sent_at=? WHERE seq=?", [now, seq])

    def send_again(self, sent_before: float, limit: int) -> int:
        """Let the oldest faces sent before then be sent again, `limit` at most (-1: all); give how many."""
        with self:
            return self.db.execute(
                "UPDATE faces SET sent_at=NULL, resent=resent+1 WHERE seq IN "
                "(SELECT seq FROM faces WHERE sent_at < ? ORDER BY seq LIMIT ?)",
                [sent_before, limit],
            ).rowcount

    def let_go(self, id_: str) -> float | None:
        """Forget a face that lies in the bucket; an unknown id is none of ours, or came twice.

        Gives when it was sent, if it was sent once only, so that it is known which sending arrived.
        """
        with self:
            row = self.db.execute(
                "DELETE FROM faces WHERE id=? RETURNING bytes, sent_at, resent", [id_]
            ).fetchone()
            if row is None:
                return None
            size, sent_at, resent = row
            self.count -= 1
            self.bytes -= size
            return None if resent else sent_at

    def oldest(self) -> str | None:
        """Give the `captured_at` of the oldest face without a receipt."""
        with self:
            row = self.db.execute("SELECT properties FROM faces ORDER BY seq LIMIT 1").fetchone()
        return json.loads(row[0])["captured_at"] if row else None

    def close(self) -> None:
        """Close the file, so that another process may open it."""
        with self:
            self.db.close()

    def _drop_oldest(self) -> None:
        row = self.db.execute(
            "DELETE FROM faces WHERE seq=(SELECT min(seq) FROM faces) RETURNING id, bytes"
        ).fetchone()
        self.count -= 1
        self.bytes -= row[1]
        self.dropped += 1
        log("FACE LOST: the spool is full, raise SPOOL_MAX_BYTES", id=row[0], dropped=self.dropped)


def remedy(error: str) -> str:
    """Say what a person can do about an error of SQLite or of the file system."""
    if "locked" in error:
        return "another detector uses it: give each its own CAMERA_NAME"
    if "full" in error or "No space" in error:
        return "free some space, or lower SPOOL_MAX_BYTES"
    if "malformed" in error or "not a database" in error:
        return "move the file away; what is in it can be read with sqlite3"
    return "give a directory that can be written, by SPOOL"
