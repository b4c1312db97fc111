"""Puts objects into the bucket, and does not let go before they lie there or are known to be refused."""

import itertools
import os
import random
import re
import threading
import time
from collections import Counter
from contextlib import nullcontext
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError, ReadTimeoutError
from botocore.handlers import add_expect_header

from service import log

from .objects import Object

IMMUTABLE = "public, max-age=31536000, immutable"
MAX_DELAY = 10.0  # s between two tries, at most
# The SDK's settings for checksums, with another default: they are newer than many S3 servers, and TLS and the
# signature guard the bytes. A bucket with Object Lock wants them
CHECKSUMS = {
    name: (name, f"AWS_{name.upper()}", "when_required", None)
    for name in ("request_checksum_calculation", "response_checksum_validation")
}
TIMEOUTS = (20, 120)  # s to connect and send, and as long for the answer: at first, and of what has timed out
TIMED_OUT = (ReadTimeoutError, ConnectionClosedError)  # the latter while the body was sent
# Tries before it is asked whether the store takes anything at all, so that it is the object that it refuses
TRIES_REFUSED = 3
TRIES_FAILED = 12  # of what passes by itself in most stores: 503, a time-out
LASTING = {*range(400, 500)} - {408, 409, 425, 429}  # the 4xx that are about the object
# Below faces/, for a policy may refuse these alone; no topic gives parentheses, which are escaped: a store on a file
# system could not hold `probe` beside the folder of a device of that name
PROBE = Object(Key="faces/(probe)", ContentType="application/octet-stream", Metadata={})
PROBE_BYTES = bytes(50_000)  # as large as a face: a store that is full takes less, but not that
# What an operator must do where the store's own words do not say it
REMEDIES = {
    "AccessDenied": "allow s3:PutObject on faces/* and rejected/* of the bucket",
    "NoCredentialsError": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role",
    "NoSuchBucket": "make the bucket with python -m s3sink.bucket, or correct S3_BUCKET",
    "PermanentRedirect": "set AWS_REGION to the bucket's region",
    "SignatureDoesNotMatch": "correct AWS_SECRET_ACCESS_KEY",
    "EndpointConnectionError": "check AWS_ENDPOINT_URL_S3 and the network",
}


class Gone(Exception):
    """The sink stops, or the connection that a message came over is lost: it will be delivered again."""


class Failed(Exception):
    """The store takes other objects, but has failed with this one again and again."""


class Refused(Failed, ValueError):
    """The store takes other objects, and says that it never will take this one."""


def s3_client(uploads: int, timeout: int = TIMEOUTS[0]) -> Any:
    """Make an S3 client for as many threads as there are `uploads`; it tries once, for `timeout` s."""
    config = Config(
        connect_timeout=timeout,  # which is also what sending all of a body may take
        read_timeout=timeout,
        max_pool_connections=uploads,
        signature_version="s3v4",  # of addresses, too, where the SDK would still take version 2
        # the SDK's own retries give up after a few, and never retry credentials or the clock
        retries={"total_max_attempts": 1},
    )
    session = botocore.session.Session(CHECKSUMS)
    # the SDK itself reads AWS_DEFAULT_REGION only
    client: Any = session.create_client("s3", os.environ.get("AWS_REGION") or None, config=config)
    # Addresses that it signs shall be those of the region: the global one redirects, and the signature breaks
    client.meta.events.register_first(
        "before-endpoint-resolution.s3", lambda context, **_: context.pop("use_global_endpoint", None)
    )
    # Send a body at once. The SDK asks first: a round trip a PUT, 1 s where a proxy does not answer, 0.3 ms of CPU
    client.meta.events.unregister("before-call.s3", add_expect_header)
    return client


def error_code(error: Exception) -> str:
    """Give S3's own code of an error, or the name of the SDK's exception."""
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else type(error).__name__


def words(error: Exception) -> str:
    """Give what S3 or the SDK says of an error, without the credentials that an endpoint's URL may hold."""
    said = error.response["Error"].get("Message", "") if isinstance(error, ClientError) else str(error)
    return re.sub(r"//[^/\s]*@", "//", str(said))


def is_refusal(error: Exception) -> bool:
    """Tell a refusal, which stays the same when it is tried again, from a failure, which may pass."""
    if not isinstance(error, ClientError) or error_code(error) == "RequestTimeout":
        return False
    return error.response["ResponseMetadata"]["HTTPStatusCode"] in LASTING


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
