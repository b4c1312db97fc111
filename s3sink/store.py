"""Puts objects into the bucket, and does not let go before they lie there or are known to be refused."""

import itertools
import random
import threading
import time
from collections import Counter
from contextlib import nullcontext

from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError, ReadTimeoutError

from service import log

from .objects import Object
from .s3 import REMEDIES, TIMEOUTS, error_code, is_refusal, s3_client, words

IMMUTABLE = "public, max-age=31536000, immutable"
MAX_DELAY = 10.0  # s between two tries, at most
TIMED_OUT = (ReadTimeoutError, ConnectionClosedError)  # the latter while the body was sent
# Tries before it is asked whether the store takes anything at all, so that it is the object that it refuses
TRIES_REFUSED = 3
TRIES_FAILED = 12  # of what passes by itself in most stores: 503, a time-out
# Below faces/, for a policy may refuse these alone; no topic gives parentheses, which are escaped: a store on a file
# system could not hold `probe` beside the folder of a device of that name
PROBE = Object(Key="faces/(probe)", ContentType="application/octet-stream", Metadata={})
PROBE_BYTES = bytes(50_000)  # as large as a face: a store that is full takes less, but not that


class Gone(Exception):
    """The sink stops, or the connection that a message came over is lost: it will be delivered again."""


class Failed(Exception):
    """The store takes other objects, but has failed with this one again and again."""


class Refused(Failed, ValueError):
    """The store takes other objects, and says that it never will take this one."""


def delay(tries: int) -> float:
    """Give a delay in s: none, then exponential with full jitter, so that the uploads do not retry in step."""
    return random.uniform(0, min(2**tries - 1, 2 * MAX_DELAY) / 2)


class Store:
    """A bucket, and what was counted on the way to it; for many threads."""

    def __init__(self, bucket: str, uploads: int) -> None:
        self.bucket, self.clients = bucket, [s3_client(uploads, timeout) for timeout in TIMEOUTS]
        self.alone = threading.Lock()  # of what has timed out: a link too slow for all at once is wide enough for each
        self.lock = threading.Lock()  # of the counts; what else is lost in a race does no harm
        self.counts: Counter[str] = Counter(stored=0, rejected=0, refused=0, taken=0, bytes=0)
        self.last = time.monotonic()
        self.failures: Counter[str] = Counter()
        self.reason = ""  # why the last PUT failed; empty when it did not

    def put(self, target: Object, body: bytes, over: threading.Event) -> None:
        """Store an object, trying for as long as it takes; raises Gone when `over` is set, Failed or Refused."""
        timed_out = enough = False
        for tries in itertools.count():
            over.wait(delay(tries))
            with self.alone if timed_out else nullcontext():
                if over.is_set():
                    raise Gone
                takes_others = enough and not self.attempt(PROBE, PROBE_BYTES)
                error = self.attempt(target, body, timed_out)
            if not error:
                return
            if takes_others:
                raise (Refused if is_refusal(error) else Failed)(f"{error_code(error)}: {words(error)}")
            enough = tries + 1 >= (TRIES_REFUSED if is_refusal(error) else TRIES_FAILED)
            timed_out |= isinstance(error, TIMED_OUT)
            target.pop("IfNoneMatch", None)  # some stores do not know it, and refuse

    def attempt(self, target: Object, body: bytes, timed_out: bool = False) -> Exception | None:
        """Try, and give what went wrong; nothing has if it lies there already and shall stay."""
        try:
            s3 = self.clients[timed_out]
            s3.put_object(Bucket=self.bucket, Body=body, CacheControl=IMMUTABLE, **target)
        except (BotoCoreError, ClientError, RuntimeError) as error:  # the latter: credentials that ended
            if error_code(error) != "PreconditionFailed":
                self.failed(error)
                return error
        self.last, self.reason = time.monotonic(), ""
        failures, self.failures = self.failures, Counter()
        if failures:
            log("bucket takes objects again", failures=sum(failures.values()))
        return None

    def failed(self, error: Exception) -> None:
        """Say what S3 says, and what to do: at the 1st, 2nd, 4th, 8th ... failure of its kind."""
        code, said = error_code(error), words(error)
        self.reason = f"{code}: {said}"
        self.failures[code] += 1
        tries = self.failures[code]
        if tries & (tries - 1) == 0:
            do = REMEDIES.get(code, "wait, or do as it says: it is tried again")
            log("bucket does not take it, holding", error=code, tries=tries, said=said, do=do)

    def count(self, **more: int) -> None:
        with self.lock:
            self.counts.update(more)

    def report(self) -> dict[str, object]:
        """Give what the status message says."""
        state, held = ("holding", self.counts["taken"]) if self.reason else ("up", 0)
        since = round(time.monotonic() - self.last)
        return {"state": state, **self.counts, "held": held, "seconds_since_last": since, "reason": self.reason}
