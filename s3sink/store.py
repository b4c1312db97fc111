"""Puts objects into the bucket, and does not let go before they lie there."""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from service import log

from .objects import Object

MAX_DELAY = 10.0  # s between two tries, at most
# The SDK's settings for checksums, with another default: they are newer than many S3 servers, and TLS and the
# signature guard the bytes. A bucket with Object Lock wants them
CHECKSUMS = {
    name: (name, f"AWS_{name.upper()}", "when_required", None)
    for name in ("request_checksum_calculation", "response_checksum_validation")
}
# What an operator must do; anything else passes by itself or names itself
REMEDIES = {
    "AccessDenied": "allow s3:PutObject on faces/* and rejected/* of the bucket",
    "ExpiredToken": "renew the AWS credentials and restart the sink",
    "InvalidAccessKeyId": "correct AWS_ACCESS_KEY_ID and restart the sink",
    "NoCredentialsError": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role",
    "NoSuchBucket": "make the bucket with python -m s3sink.bucket, or correct S3_BUCKET",
    "PermanentRedirect": "set AWS_REGION to the bucket's region",
    "RequestTimeTooSkewed": "set this machine's clock",
    "SignatureDoesNotMatch": "correct AWS_SECRET_ACCESS_KEY and restart the sink",
    "EndpointConnectionError": "check AWS_ENDPOINT_URL_S3 and the network",
}


class Gone(Exception):
    """The sink stops, or the connection that a message came over is lost: it will be delivered again."""


def s3_client(uploads: int) -> Any:
    """Make an S3 client for as many threads as there are `uploads`; tries once, within seconds."""
    config = Config(
        connect_timeout=3,
        read_timeout=10,
        max_pool_connections=uploads,
        signature_version="s3v4",  # of addresses, too, where boto3 would still take version 2
        # the SDK's own retries give up after a few, and never retry credentials or the clock
        retries={"total_max_attempts": 1},
    )
    session = boto3.Session(botocore_session=botocore.session.Session(CHECKSUMS))
    # boto3 itself reads AWS_DEFAULT_REGION only
    client: Any = session.client("s3", region_name=os.environ.get("AWS_REGION") or None, config=config)
    # Addresses that it signs shall be those of the region: the global one redirects, and the signature breaks
    client.meta.events.register_first(
        "before-endpoint-resolution.s3", lambda context, **_: context.pop("use_global_endpoint", None)
    )
    return client


def error_code(error: Exception) -> str:
    """Give S3's own code of an error, or the name of the SDK's exception."""
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else type(error).__name__


def back_off() -> Iterator[float]:
    """Give endless delays in s: exponential with full jitter, so that the uploads do not retry in step."""
    limit = 0.5
    while True:
        yield random.uniform(0, limit)
        limit = min(2 * limit, MAX_DELAY)


class Store:
    """A bucket, and what was counted on the way to it; for many threads."""

    def __init__(self, client: Any, bucket: str) -> None:
        self.client = client
        self.bucket = bucket
        self.counts: Counter[str] = Counter(stored=0, rejected=0, rejected_in_a_row=0, taken=0, held=0)
        self.last = time.monotonic()
        self.lock = threading.Lock()
        self.failures: Counter[str] = Counter()

    def put(self, target: Object, body: bytes, gone: threading.Event) -> None:
        """Store an object, trying for as long as it takes; raises Gone when `gone` is set meanwhile.

        The key comes from the message alone: a second PUT of the same face, after a crash or a time-out,
        overwrites it with itself.
        """
        held = 0
        try:
            for delay in back_off():
                try:
                    self.client.put_object(
                        Bucket=self.bucket,
                        Key=target.key,
                        Body=body,
                        ContentType=target.content_type,
                        CacheControl="public, max-age=31536000, immutable",
                        Metadata=target.metadata,
                    )
                    break
                except (BotoCoreError, ClientError) as error:
                    self.failed(error)
                self.count(held=1 - held)
                held = 1
                if gone.wait(delay):
                    raise Gone
        finally:
            self.count(held=-held)
        self.succeeded()

    def count(self, **more: int) -> None:
        """Add to the counters."""
        with self.lock:
            self.counts.update(more)

    def note(self, image: bool) -> None:
        """Count an object, and how many in a row were no image."""
        with self.lock:
            self.counts["stored" if image else "rejected"] += 1
            self.counts["rejected_in_a_row"] = 0 if image else self.counts["rejected_in_a_row"] + 1

    def report(self) -> dict[str, int]:
        """Give the counters for the status message."""
        with self.lock:
            return {**self.counts, "seconds_since_last": round(time.monotonic() - self.last)}

    def failed(self, error: Exception) -> None:
        """Say what an operator must do: at the 1st, 2nd, 4th, 8th ... failure of its kind."""
        code = error_code(error)
        with self.lock:
            self.failures[code] += 1
            tries = self.failures[code]
        if tries & (tries - 1) == 0:
            log(
                "bucket does not take it, holding", error=code, tries=tries, do=REMEDIES.get(code, str(error))
            )

    def succeeded(self) -> None:
        """Note the time of a PUT, and say so when it ends a series of failures."""
        with self.lock:
            self.last = time.monotonic()
            failures, self.failures = self.failures, Counter()
        if failures:
            log("bucket takes objects again", failures=sum(failures.values()))
