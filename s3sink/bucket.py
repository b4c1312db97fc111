"""Prepare the bucket, as often as one likes: `python -m s3sink.bucket`. What others have set there stays."""

import json
import sys
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from service import VERSION, Settings, log, read_settings

from .s3 import REMEDIES, error_code, s3_client

OURS = "faces-to-cloud"  # in the metadata of our page
PAGE_0_1 = '"206cdba87f07850f730c83cd47a1339c"'  # ETag of the page of version 0.1, which said nothing there
PREFIXES = ("faces/", "rejected/")  # and the IDs of our lifecycle rules
KEEP_REPLACED = 7  # days at most that a versioned bucket keeps what was replaced or deleted
FORBIDDEN = "allow it to these credentials, or, where the account blocks public buckets, lift that"


def read(get: Any, bucket: str) -> Any:
    """Give a setting of the bucket, {} where there is none; raises ClientError, and nothing is written."""
    try:
        return get(Bucket=bucket)
    except ClientError as error:
        if not error_code(error).startswith("NoSuch"):
            raise
        return {}


def upload_gallery(s3: Any, bucket: str) -> None:
    """Put our page beside the faces, never over one of others; makes the bucket where there is none."""
    page = Path(__file__).with_name("index.html").read_bytes()
    try:
        there = s3.get_object(Bucket=bucket, Key="index.html")
        if there["Body"].read(len(page) + 1) == page:
            return
        found = "ours" if OURS in there["Metadata"] or there["ETag"] == PAGE_0_1 else "not ours"
    except ClientError as error:
        found = error_code(error)
        if found not in ("NoSuchBucket", "NoSuchKey", "AccessDenied"):
            raise
    if found == "NoSuchBucket":
        region = s3.meta.region_name
        # us-east-1 is the one region that must not be named
        place = {"CreateBucketConfiguration": {"LocationConstraint": region}} if region != "us-east-1" else {}
        s3.create_bucket(Bucket=bucket, **place)
        log("bucket created", bucket=bucket, region=region)
    if found in ("not ours", "AccessDenied"):  # the latter is as it should be for the sink's own credentials
        log("index.html left as it is", bucket=bucket, reason=found)
    else:
        kind = {"ContentType": "text/html; charset=utf-8", "CacheControl": "no-cache", "Metadata": {OURS: VERSION}}
        s3.put_object(Bucket=bucket, Key="index.html", Body=page, **kind)


def public_statements(bucket: str, partition: str) -> list[dict[str, Any]]:
    """Give the statements by which anybody may read page and faces, and list the faces, and nothing else."""
    arn = f"arn:{partition}:s3:::{bucket}"
    anybody = {"Effect": "Allow", "Principal": "*"}
    objects = [f"{arn}/faces/*", f"{arn}/index.html"]
    faces = {"StringLike": {"s3:prefix": "faces/*"}}
    return [
        {"Sid": "FacesToCloudRead", **anybody, "Action": "s3:GetObject", "Resource": objects},
        {"Sid": "FacesToCloudList", **anybody, "Action": "s3:ListBucket", "Resource": arn, "Condition": faces},
    ]


def set_access(s3: Any, bucket: str, public: bool) -> None:
    """Let anybody read, or nobody by a statement of ours."""
    ours = public_statements(bucket, s3.meta.partition)
    policy = json.loads(read(s3.get_bucket_policy, bucket).get("Policy", '{"Version": "2012-10-17", "Statement": []}'))
    there = policy["Statement"] if isinstance(policy["Statement"], list) else [policy["Statement"]]
    # the latter: as version 0.1 wrote them, without a Sid
    wanted = [it for it in there if not any(it.get("Sid") == one["Sid"] or {**one, **it} == one for one in ours)]
    if public:
        wanted += ours
        set_block(s3, bucket, on=False)
    if not wanted and there:
        s3.delete_bucket_policy(Bucket=bucket)
    elif wanted != there:
        s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({**policy, "Statement": wanted}))
    if not public:
        set_block(s3, bucket, on=True)


def set_block(s3: Any, bucket: str, on: bool) -> None:
    """Block public policies or not; the halves of the block that concern ACLs stay as they are."""
    halves = ("BlockPublicPolicy", "RestrictPublicBuckets")
    try:
        there = read(s3.get_public_access_block, bucket).get("PublicAccessBlockConfiguration", {})
        if all(there.get(half, False) == on for half in halves):
            return
        if read(s3.get_bucket_policy_status, bucket).get("PolicyStatus", {}).get("IsPublic"):
            log("public access block left as it is", reason="statements of others are public, too")
        else:
            block = {**there, **dict.fromkeys(halves, on)}
            s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=block)
    except ClientError as error:  # few stores have one; where it does block, the policy is refused
        log("public access block left as it is", reason=error_code(error))


def set_expiry(s3: Any, bucket: str, days: int) -> None:
    """Have the bucket delete what is older than `days`; where it keeps versions, those, too."""
    there = read(s3.get_bucket_lifecycle_configuration, bucket)
    replaced = {"NoncurrentDays": min(days, KEEP_REPLACED)}
    rule = {"Status": "Enabled", "Expiration": {"Days": days}, "NoncurrentVersionExpiration": replaced}
    ours = [{"ID": prefix, "Filter": {"Prefix": prefix}, **rule} for prefix in PREFIXES]
    rules = [it for it in there.get("Rules", []) if it.get("ID") not in PREFIXES] + ours
    # the one setting beside the rules, which a PUT without it resets
    size = {name: value for name, value in there.items() if name == "TransitionDefaultMinimumObjectSize"}
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules}, **size)


def gallery_url(s3: Any, bucket: str) -> str:
    """Give the address of the gallery, as boto3 knows it: region, partition, path or host, dots."""
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "index.html"})
    return str(url).partition("?")[0]


def bucket_name(settings: Settings) -> str:
    """Take S3_BUCKET, and see whether the SDK can do with its own settings; none of it shows a secret."""
    bucket = settings.text("S3_BUCKET", "", r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "give the name of a bucket")
    settings.text("AWS_REGION", "us-east-1", "[a-zA-Z0-9-]+", "give a region, such as eu-central-1")
    settings.text("AWS_ENDPOINT_URL_S3", "", r"(https?://[^\s@]+)?", "give https://HOST, no password")
    try:
        if not boto3.Session().get_credentials():
            settings.refuse("AWS_ACCESS_KEY_ID", "", REMEDIES["NoCredentialsError"])
        if not settings.bad:
            s3_client(uploads=1)  # reads the rest, in ~/.aws
    except (BotoCoreError, ValueError) as error:
        settings.bad.append(f"AWS_PROFILE={settings.env.get('AWS_PROFILE', '')}, AWS_ACCESS_KEY_ID: {error}")
    return bucket


def main() -> None:
    """Create and prepare the bucket that the environment names."""
    settings = read_settings(__doc__)
    bucket = bucket_name(settings)
    access = settings.text("S3_PUBLIC", "-", "[01-]", "1: anybody may read the faces, 0: nobody, empty: no change")
    expire_days = int(settings.number("S3_EXPIRE_DAYS", 0, 0, 36500))
    settings.refuse_bad()
    s3 = s3_client(uploads=1)
    try:
        upload_gallery(s3, bucket)
        if access != "-":
            set_access(s3, bucket, public=access == "1")
        if expire_days:
            set_expiry(s3, bucket, expire_days)
    except (BotoCoreError, ClientError) as error:
        code = error_code(error)
        remedy = {**REMEDIES, "AccessDenied": FORBIDDEN}.get(code, "see the store's documents")
        sys.exit(f"S3_BUCKET={bucket}: {code}: {remedy}; {' '.join(str(error).split())}")
    log("bucket ready", gallery=gallery_url(s3, bucket))


if __name__ == "__main__":
    main()
