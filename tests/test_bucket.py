"""Does `python -m s3sink.bucket` prepare a bucket any number of times, public only when asked?"""

import json
import sys
from typing import Any

import pytest
from botocore.exceptions import ClientError

from s3sink.bucket import gallery_url, public_policy
from s3sink.store import s3_client
from tests.pipeline import Pipeline


def prepare(pipeline: Pipeline, **settings: str) -> str:
    """Run the command, and give what it printed."""
    pipeline.log_path("bucket").unlink(missing_ok=True)
    process = pipeline.start("bucket", sys.executable, "-m", "s3sink.bucket", **settings)
    assert process.wait(60) == 0, pipeline.log("bucket")
    return pipeline.log("bucket")


def policy(s3: Any) -> Any:
    """Give the bucket's policy, None where there is none."""
    try:
        return json.loads(s3.get_bucket_policy(Bucket="faces")["Policy"])
    except ClientError:
        return None


def test_public_only_when_asked_and_private_again(pipeline: Pipeline) -> None:
    pipeline.s3_server()  # with S3_PUBLIC=1
    s3 = pipeline.s3()
    assert policy(s3) == public_policy("faces")
    said = prepare(pipeline)  # says nothing of it: nothing changes
    assert policy(s3) == public_policy("faces")
    assert "bucket created" not in said
    prepare(pipeline, S3_PUBLIC="0")
    assert policy(s3) is None
    prepare(pipeline)
    assert policy(s3) is None
    page = s3.get_object(Bucket="faces", Key="index.html")
    assert page["ContentType"] == "text/html; charset=utf-8"
    assert page["CacheControl"] == "no-cache"
    assert s3.list_objects_v2(Bucket="faces")["KeyCount"] == 1


def test_the_policy_names_the_faces_and_the_page_and_nothing_to_write() -> None:
    statements = public_policy("faces")["Statement"]
    assert {statement["Action"] for statement in statements} == {"s3:GetObject", "s3:ListBucket"}
    assert statements[0]["Resource"] == ["arn:aws:s3:::faces/faces/*", "arn:aws:s3:::faces/index.html"]


def test_faces_and_what_was_rejected_expire_when_asked(pipeline: Pipeline) -> None:
    pipeline.s3_server()
    prepare(pipeline, S3_EXPIRE_DAYS="30")
    rules = pipeline.s3().get_bucket_lifecycle_configuration(Bucket="faces")["Rules"]
    assert {(rule["Filter"]["Prefix"], rule["Expiration"]["Days"]) for rule in rules} == {
        ("faces/", 30),
        ("rejected/", 30),
    }


@pytest.mark.parametrize(
    ("region", "bucket", "endpoint", "url"),
    [
        ("eu-central-1", "my-faces", "", "https://my-faces.s3.eu-central-1.amazonaws.com/index.html"),
        ("us-east-1", "my-faces", "", "https://my-faces.s3.amazonaws.com/index.html"),
        # no certificate holds for two more levels
        ("eu-central-1", "my.faces", "", "https://s3.eu-central-1.amazonaws.com/my.faces/index.html"),
        ("cn-north-1", "my-faces", "", "https://my-faces.s3.cn-north-1.amazonaws.com.cn/index.html"),
        ("auto", "faces", "https://s3.example.org", "https://s3.example.org/faces/index.html"),
        ("us-east-1", "faces", "http://[::1]:9000", "http://[::1]:9000/faces/index.html"),
    ],
)
def test_the_gallery_is_where_the_bucket_is(
    monkeypatch: pytest.MonkeyPatch, region: str, bucket: str, endpoint: str, url: str
) -> None:
    for name, value in (("REGION", region), ("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "y")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    assert gallery_url(s3_client(1), bucket) == url
