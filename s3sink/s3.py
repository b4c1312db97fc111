"""S3 as the SDK has it: a client for our use, and what its errors say."""

import os
import re
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.handlers import add_expect_header

# The SDK's settings for checksums, with another default: they are newer than many S3 servers, and TLS and the
# signature guard the bytes. A bucket with Object Lock wants them
CHECKSUMS = {
    name: (name, f"AWS_{name.upper()}", "when_required", None)
    for name in ("request_checksum_calculation", "response_checksum_validation")
}
TIMEOUTS = (20, 120)  # s to connect and send, and as long for the answer: at first, and of what has timed out
LASTING = {*range(400, 500)} - {408, 409, 425, 429}  # the 4xx that are about the object
# What an operator must do where the store's own words do not say it
REMEDIES = {
    "AccessDenied": "allow s3:PutObject on faces/* and rejected/* of the bucket",
    "NoCredentialsError": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role",
    "NoSuchBucket": "make the bucket with python -m s3sink.bucket, or correct S3_BUCKET",
    "PermanentRedirect": "set AWS_REGION to the bucket's region",
    "SignatureDoesNotMatch": "correct AWS_SECRET_ACCESS_KEY",
    "EndpointConnectionError": "check AWS_ENDPOINT_URL_S3 and the network",
}


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
