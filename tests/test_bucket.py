"""Does `python -m s3sink.bucket` prepare a bucket any number of times, and leave alone what is not ours?"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from s3sink import bucket as program
from s3sink.bucket import PREFIXES, gallery_url, public_statements, upload_gallery
from s3sink.s3 import s3_client
from tests.faults import FaultyS3
from tests.pipeline import ROOT
from tests.stores import Store, running

BLOCK = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
NAMES = iter(range(1_000_000))


@pytest.fixture(scope="module", params=["moto", "radosgw"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with running(request.param) as store:
        yield store


@pytest.fixture
def name(request: pytest.FixtureRequest, seed: int) -> str:
    """A bucket's name that no other test has, nor an earlier run."""
    return re.sub("[^a-z]+", "-", f"{request.node.originalname}"[5:45]) + f"-{seed}"


def asked(ask: Any, name: str) -> Any:
    """What the store answers, or the code with which it refuses."""
    try:
        answer = ask(Bucket=name)
        answer.pop("ResponseMetadata")
        return answer
    except ClientError as refused:
        return refused.response["Error"]["Code"]


def settings(store: Store, name: str) -> dict[str, Any]:
    """Everything about a bucket that the program could have changed, as the store tells it."""
    s3 = store.client()
    found = {
        "policy": asked(s3.get_bucket_policy, name),
        "block": asked(s3.get_public_access_block, name),
        "rules": asked(s3.get_bucket_lifecycle_configuration, name),
        "page": asked(lambda Bucket: s3.get_object(Bucket=Bucket, Key="index.html"), name),  # noqa: N803
    }
    if isinstance(found["policy"], dict):
        found["policy"] = json.loads(found["policy"]["Policy"])
    if isinstance(found["rules"], dict):
        found["rules"]["Rules"].sort(key=lambda rule: rule["ID"])
    if isinstance(found["page"], dict):
        found["page"] = (found["page"]["Body"].read(), found["page"]["Metadata"])
    return found


def statements(found: dict[str, Any]) -> Any:
    return found["policy"]["Statement"]


DENY = {
    "Sid": "OnlyByTls",
    "Effect": "Deny",
    "Principal": "*",
    "Action": "s3:PutObject",
    "Resource": "arn:aws:s3:::{name}/theirs/*",
    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
}
THEIR_RULES = [
    {"ID": "logs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}},
    {"ID": "old", "Status": "Disabled", "Prefix": "tmp/", "Expiration": {"Days": 1}},
    {
        "ID": "tagged",
        "Status": "Enabled",
        "Filter": {"And": {"Prefix": "big/", "Tags": [{"Key": "keep", "Value": "no"}]}},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 9},
    },
]


def furnish(store: Store, name: str, acls: bool) -> None:
    """Make a bucket that somebody else uses already; `acls`: with the halves of the block for ACLs."""
    s3 = store.client()
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="index.html", Body=b"their page", Metadata={"by": "them"})
    s3.put_object(Bucket=name, Key="theirs/secret", Body=b"x")
    s3.put_object(Bucket=name, Key="faces/jetson-01/cam0/face.jpg", Body=b"x")
    s3.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": THEIR_RULES})
    deny = json.loads(json.dumps(DENY).replace("{name}", name))
    policy = {"Version": "2012-10-17", "Id": "theirs", "Statement": deny}  # one, and no list
    s3.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
    block = dict(zip(BLOCK, (acls, acls, True, True), strict=True))
    s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=block)


def test_what_others_have_set_is_there_before_and_after(store: Store, name: str) -> None:
    furnish(store, name, acls=True)
    before = settings(store, name)
    said = store.prepare(name, S3_PUBLIC="1", S3_EXPIRE_DAYS="30")
    assert "index.html left as it is: bucket=" in said
    after = settings(store, name)
    assert after["page"] == before["page"] == (b"their page", {"by": "them"})
    assert after["policy"]["Id"] == "theirs"
    assert statements(after) == [statements(before), *public_statements(name, "aws")]
    assert [rule for rule in after["rules"]["Rules"] if rule["ID"] not in PREFIXES] == before["rules"]["Rules"]
    assert {rule["ID"] for rule in after["rules"]["Rules"]} == {"logs", "old", "tagged", *PREFIXES}
    assert after["block"]["PublicAccessBlockConfiguration"] == dict(zip(BLOCK, (True, True, False, False), strict=True))
    assert store.anonymous(f"{name}/faces/jetson-01/cam0/face.jpg") == 200
    assert store.anonymous(f"{name}/?list-type=2&prefix=faces/") == 200
    for closed in ("theirs/secret", "?list-type=2", "?list-type=2&prefix=theirs/"):
        if not store.is_moto or closed == "theirs/secret":  # moto lets anybody list
            assert store.anonymous(f"{name}/{closed}") == 403
    again = store.prepare(name, S3_PUBLIC="1", S3_EXPIRE_DAYS="30")
    assert "public access block" not in again
    assert settings(store, name) == after

    store.prepare(name, S3_PUBLIC="0")
    private = settings(store, name)
    assert statements(private) == [statements(before)]
    assert {**private, "policy": 0, "rules": 0} == {**before, "policy": 0, "rules": 0}
    assert private["rules"] == after["rules"]
    assert store.anonymous(f"{name}/faces/jetson-01/cam0/face.jpg") == 403


def test_a_bucket_of_one_s_own_is_public_only_when_asked_and_private_again(store: Store, name: str) -> None:
    said = store.prepare(name)
    assert "bucket created:" in said
    assert f"bucket ready: gallery={store.url}/{name}/index.html" in said
    new = settings(store, name)
    assert new["policy"] == "NoSuchBucketPolicy"
    assert new["page"][0] == (ROOT / "s3sink/index.html").read_bytes()
    assert store.anonymous(f"{name}/index.html") == 403
    store.prepare(name, S3_PUBLIC="1")
    assert statements(settings(store, name)) == public_statements(name, "aws")
    assert store.anonymous(f"{name}/index.html") == 200
    assert "bucket created" not in store.prepare(name)  # says nothing of S3_PUBLIC: nothing changes
    assert store.anonymous(f"{name}/index.html") == 200
    store.prepare(name, S3_PUBLIC="0")
    assert settings(store, name)["policy"] == "NoSuchBucketPolicy"
    assert store.anonymous(f"{name}/index.html") == 403
    page = store.client().get_object(Bucket=name, Key="index.html")
    assert (page["ContentType"], page["CacheControl"]) == ("text/html; charset=utf-8", "no-cache")
    assert store.client().list_objects_v2(Bucket=name)["KeyCount"] == 1


def test_what_version_0_1_made_is_ours(store: Store, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s3 = store.client()
    s3.create_bucket(Bucket=name)
    etag = s3.put_object(Bucket=name, Key="index.html", Body=b"the page of version 0.1")["ETag"]
    arn = f"arn:aws:s3:::{name}"
    read = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject"}
    read["Resource"] = [f"{arn}/faces/*", f"{arn}/index.html"]  # type: ignore[assignment]
    prefix = {"StringLike": {"s3:prefix": "faces/*"}}
    may_list = {"Effect": "Allow", "Principal": "*", "Action": "s3:ListBucket", "Resource": arn}
    policy = {"Version": "2012-10-17", "Statement": [read, {**may_list, "Condition": prefix}]}
    s3.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
    rules = [
        {"ID": prefix, "Status": "Enabled", "Filter": {"Prefix": prefix}, "Expiration": {"Days": 7}}
        for prefix in ("faces/", "rejected/")
    ]
    s3.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": rules})

    monkeypatch.setattr(program, "PAGE_0_1", etag)
    upload_gallery(s3, name)
    assert set(settings(store, name)["page"][1]) == {program.OURS}
    store.prepare(name, S3_PUBLIC="1", S3_EXPIRE_DAYS="30")
    found = settings(store, name)
    assert statements(found) == public_statements(name, "aws")
    assert [rule["Expiration"]["Days"] for rule in found["rules"]["Rules"]] == [30, 30]
    store.prepare(name, S3_PUBLIC="0")
    assert settings(store, name)["policy"] == "NoSuchBucketPolicy"


def test_a_page_of_ours_is_renewed_and_not_written_twice(store: Store, name: str) -> None:
    store.prepare(name)
    s3 = store.client()
    first = s3.head_object(Bucket=name, Key="index.html")["LastModified"]
    s3.put_object(Bucket=name, Key="index.html", Body=b"older", Metadata={program.OURS: "of another version"})
    store.prepare(name)
    renewed = s3.get_object(Bucket=name, Key="index.html")
    assert renewed["Body"].read() != b"older"
    store.prepare(name)
    assert s3.head_object(Bucket=name, Key="index.html")["LastModified"] == renewed["LastModified"] >= first


def test_in_a_versioned_bucket_what_was_replaced_or_deleted_expires_too(store: Store, name: str) -> None:
    for days, replaced in (("30", 7), ("2", 2)):
        store.prepare(name, S3_EXPIRE_DAYS=days)
        rules = settings(store, name)["rules"]["Rules"]
        assert [
            (
                rule["Filter"]["Prefix"],
                rule["Expiration"]["Days"],
                rule["NoncurrentVersionExpiration"]["NoncurrentDays"],
            )
            for rule in rules
        ] == [("faces/", int(days), replaced), ("rejected/", int(days), replaced)]


def test_a_block_that_holds_others_back_is_not_lifted(store: Store, name: str) -> None:
    s3 = store.client()
    s3.create_bucket(Bucket=name)
    theirs = {"Sid": "Theirs", "Effect": "Allow", "Principal": "*", "Action": "s3:GetObject"}
    policy = {"Version": "2012-10-17", "Statement": [{**theirs, "Resource": f"arn:aws:s3:::{name}/theirs/*"}]}
    s3.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
    block = dict(zip(BLOCK, (False, False, False, True), strict=True))
    s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=block)
    said = store.prepare(name, S3_PUBLIC="1")
    assert 'public access block left as it is: reason="statements of others are public, too"' in said
    assert settings(store, name)["block"]["PublicAccessBlockConfiguration"] == block
    # and nor is their publishing ended by ours
    s3.delete_public_access_block(Bucket=name)
    store.prepare(name, S3_PUBLIC="0")
    found = settings(store, name)
    assert found["block"] == "NoSuchPublicAccessBlockConfiguration"
    assert found["policy"] == policy


def test_what_may_not_be_read_is_not_written(store: Store, name: str) -> None:
    if store.is_moto:
        pytest.skip("moto refuses nobody")
    s3 = store.client()
    s3.create_bucket(Bucket=name)
    role = {"Sid": "Role", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam:::user/role"}}
    arn = f"arn:aws:s3:::{name}"
    may = ["s3:PutBucketPolicy", "s3:DeleteBucketPolicy", "s3:PutObject", "s3:PutLifecycleConfiguration"]
    policy = {"Version": "2012-10-17", "Statement": [{**role, "Action": may, "Resource": [arn, f"{arn}/*"]}]}
    s3.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
    before = settings(store, name)
    of_the_role = {"AWS_ACCESS_KEY_ID": f"role{store.keys['AWS_ACCESS_KEY_ID']}"}
    for setting in ("S3_PUBLIC=1", "S3_PUBLIC=0", "S3_EXPIRE_DAYS=1"):
        changed = dict([setting.split("=")])
        said = store.prepare(name, 1, **{**changed, **of_the_role})
        assert f"S3_BUCKET={name}: AccessDenied: allow it to these credentials" in said
        assert settings(store, name) == before
    # the sink's own credentials prepare nothing, and that is no fault: cloud/up on a VM with a role
    assert "index.html left as it is: bucket=" in store.prepare(name, **of_the_role)
    assert settings(store, name) == before


def test_a_wrong_secret_is_named(store: Store, name: str) -> None:
    if store.is_moto:
        pytest.skip("moto believes everybody")
    said = store.prepare(name, 1, AWS_SECRET_ACCESS_KEY="wrong-and-private")
    assert f"S3_BUCKET={name}: SignatureDoesNotMatch: correct AWS_SECRET_ACCESS_KEY" in said
    assert "wrong-and-private" not in said


class SmallStore(FaultyS3):
    """An S3 server that knows some settings of a bucket, and answers for the others as small ones do."""

    unknown: tuple[str, ...] = ()
    status, code = 501, "NotImplemented"

    def forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if any(f"?{setting}" in path for setting in self.unknown):
            words = f"<Error><Code>{self.code}</Code><Message>not here</Message></Error>"
            return self.status, {"Content-Type": "application/xml"}, words.encode()
        return super().forward(method, path, headers, body)


class OtherSize(FaultyS3):
    """Before moto, which does not keep this setting of a bucket."""

    HEADER = "x-amz-transition-default-minimum-object-size"
    written: tuple[str | None, ...] = ()

    def forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        status, answered, text = super().forward(method, path, headers, body)
        if "?lifecycle" in path and method == "PUT":
            self.written += (headers.get(self.HEADER),)
        elif "?lifecycle" in path:
            answered = {**answered, self.HEADER: "varies_by_storage_class"}
        return status, answered, text


def test_the_setting_beside_the_lifecycle_rules_stays() -> None:
    with running("moto") as store:
        relay = OtherSize(int(store.url.rpartition(":")[2]))
        store.client().create_bucket(Bucket="other")
        store.client().put_bucket_lifecycle_configuration(Bucket="other", LifecycleConfiguration={"Rules": THEIR_RULES})
        store.url = f"http://127.0.0.1:{relay.port}"
        store.prepare("other", S3_EXPIRE_DAYS="30")
        assert relay.written == ("varies_by_storage_class",)
        relay.close()


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (405, "MethodNotAllowed")])
def test_a_store_that_knows_no_such_setting_is_told_in_its_own_words(status: int, code: str) -> None:
    with running("moto") as store:
        small = SmallStore(int(store.url.rpartition(":")[2]))
        small.status, small.code = status, code
        store.url = f"http://127.0.0.1:{small.port}"
        small.unknown = ("publicAccessBlock",)
        said = store.prepare("small", S3_PUBLIC="1", S3_EXPIRE_DAYS="3")
        assert f"public access block left as it is: reason={code}" in said
        assert store.anonymous("small/index.html") == 200
        store.prepare("small", S3_PUBLIC="0")
        assert store.anonymous("small/index.html") == 403
        small.unknown = ("policy", "lifecycle", "publicAccessBlock")
        store.prepare("small")
        for changed in ({"S3_PUBLIC": "1"}, {"S3_PUBLIC": "0"}, {"S3_EXPIRE_DAYS": "3"}):
            assert f"S3_BUCKET=small: {code}: " in store.prepare("small", 1, **changed)
        small.close()


def test_the_policy_names_the_faces_and_the_page_and_nothing_to_write() -> None:
    read, look = public_statements("faces", "aws-cn")
    assert (read["Action"], look["Action"]) == ("s3:GetObject", "s3:ListBucket")
    assert read["Resource"] == ["arn:aws-cn:s3:::faces/faces/*", "arn:aws-cn:s3:::faces/index.html"]
    assert look["Resource"] == "arn:aws-cn:s3:::faces"


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


def test_the_example_in_the_documents_reads_the_bucket(store: Store, name: str) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/bucket.md").read_text(), re.M | re.S)
    assert len([line for line in example.splitlines() if line and "import" not in line]) <= 10
    s3 = store.client()
    s3.create_bucket(Bucket=name)
    for end in ("132027.040Z-aaaaaaaa00000001.jpg", "132031.040Z-aaaaaaaa00000002.webp"):
        s3.put_object(Bucket=name, Key=f"faces/jetson-01/cam0/2026/11/22/{end}", Body=b"x")
    command = [sys.executable, "-c", example]
    said = subprocess.run(command, env=store.env(name), capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["13:20:27 visit aaaaaaaa 0 s", "13:20:31 visit aaaaaaaa 4 s"]
