"""Create and prepare the bucket, as often as one likes: `python -m s3sink.bucket`.

Public only when S3_PUBLIC=1 asks for it: anybody may then read `faces/*` and the gallery, and list the faces.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from dotenv import find_dotenv, load_dotenv

from service import Settings, log

from .store import REMEDIES, error_code, s3_client


def public_policy(bucket: str) -> dict[str, Any]:
    """Give the bucket policy by which anybody may read and list the faces, and nothing else."""
    arn = f"arn:aws:s3:::{bucket}"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": "*",
                "Action": "s3:GetObject",
                "Resource": [f"{arn}/faces/*", f"{arn}/index.html"],
            },
            {
                "Effect": "Allow",
                "Principal": "*",
                "Action": "s3:ListBucket",
                "Resource": arn,
                "Condition": {"StringLike": {"s3:prefix": "faces/*"}},
            },
        ],
    }


def create(s3: Any, bucket: str) -> None:
    """Create the bucket where it is not there yet; raises ClientError."""
    region = s3.meta.region_name
    # us-east-1 is the one region that must not be named
    place = {"CreateBucketConfiguration": {"LocationConstraint": region}} if region != "us-east-1" else {}
    try:
        s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error_code(error) == "403":
            # Who may only put objects may not ask; if it is not there, the PUT of the gallery says so
            log("bucket not ours to look at, taken to be there", bucket=bucket)
            return
        if error_code(error) != "404":
            raise
        s3.create_bucket(Bucket=bucket, **place)
        log("bucket created", bucket=bucket, region=region)


def upload_gallery(s3: Any, bucket: str) -> None:
    """Put the gallery's page beside the faces."""
    page = Path(__file__).with_name("index.html").read_bytes()
    kind = {"ContentType": "text/html; charset=utf-8", "CacheControl": "no-cache"}
    s3.put_object(Bucket=bucket, Key="index.html", Body=page, **kind)


def set_access(s3: Any, bucket: str, public: bool) -> None:
    """Let anybody read, or nobody but those with credentials."""
    if public:
        try:
            s3.delete_public_access_block(Bucket=bucket)
        except ClientError as error:
            # Only AWS and a few others know it; where it blocks, the next call is refused
            log("no public access block lifted", error=error_code(error))
        s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(public_policy(bucket)))
    else:
        s3.delete_bucket_policy(Bucket=bucket)


def set_expiry(s3: Any, bucket: str, days: int) -> None:
    """Have the bucket delete what is older than `days`."""
    rules = [
        {"ID": prefix, "Status": "Enabled", "Filter": {"Prefix": prefix}, "Expiration": {"Days": days}}
        for prefix in ("faces/", "rejected/")
    ]
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})


def gallery_url(s3: Any, bucket: str) -> str:
    """Give the address of the gallery, as boto3 knows it: region, partition, path or host, dots."""
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "index.html"})
    return str(url).partition("?")[0]


def bucket_name(settings: Settings) -> str:
    """Take S3_BUCKET from the settings, and note when there are no credentials."""
    if not boto3.Session().get_credentials():
        settings.bad.append(
            "AWS_ACCESS_KEY_ID=: set it and AWS_SECRET_ACCESS_KEY, or give the machine a role"
        )
    return settings.text("S3_BUCKET", "", r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "give the name of a bucket")


def main() -> None:
    """Create and prepare the bucket that the environment names."""
    load_dotenv(find_dotenv(usecwd=True))
    settings = Settings(os.environ)
    bucket = bucket_name(settings)
    access = settings.text(
        "S3_PUBLIC", "-", r"[01-]", "1 lets anybody read the faces, 0 nobody, empty changes nothing"
    )
    expire_days = int(settings.number("S3_EXPIRE_DAYS", 0, 0, 36500))
    settings.refuse_bad()
    s3 = s3_client(uploads=1)
    try:
        create(s3, bucket)
        upload_gallery(s3, bucket)
        if access != "-":
            set_access(s3, bucket, public=access == "1")
        if expire_days:
            set_expiry(s3, bucket, expire_days)
    except (BotoCoreError, ClientError) as error:
        remedy = REMEDIES.get(error_code(error), str(error))
        print(f"S3_BUCKET={bucket}: {error_code(error)}: {remedy}", file=sys.stderr)
        sys.exit(1)
    log("bucket ready", gallery=gallery_url(s3, bucket))


if __name__ == "__main__":
    main()
