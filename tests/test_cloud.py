"""Does cloud/aws.yaml deploy what it says, and does cloud/up refuse bad settings before it makes anything?"""

import base64
import email
import fcntl
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import cfnlint.decode  # type: ignore[import-untyped]
import pytest
from cfnlint.api import lint_all  # type: ignore[import-untyped]
from moto import mock_aws

from s3sink.bucket import public_statements
from tests.stores import running

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "cloud" / "aws.yaml"
SETTINGS = ROOT / "docs/settings.md"
TEMPLATE_BODY: Any = cfnlint.decode.decode(str(TEMPLATE))[0]


# ---- aws.yaml ------------------------------------------------------------------------------------------


def resolve(value: Any, names: dict[str, Any]) -> Any:  # noqa: PLR0911 a case, a return
    """Put `names` for the intrinsic functions of CloudFormation; what is not among them stays."""
    match value:
        case {"Ref": name} if name in names:
            return names[name]
        case {"Fn::GetAtt": parts}:
            return names.get(".".join(parts), value)
        case {"Fn::Sub": str(text)}:
            return re.sub(r"\$\{([\w.:]+)\}", lambda found: str(names.get(found[1], found[0])), text)
        case {"Fn::If": [condition, yes, no]}:
            return resolve(yes if names[condition] else no, names)
        case dict():
            return {key: resolve(part, names) for key, part in value.items()}
        case list():
            return [resolve(part, names) for part in value]
    return value


class Stack:
    """The template, deployed."""

    def __init__(self, **parameters: str) -> None:
        given = {"Repository": "https://example.org/faces.git", "PublicRead": "true"}
        self.session = boto3.Session("key", "secret", region_name="eu-central-1")
        given |= parameters
        formation = self.client("cloudformation")
        formation.create_stack(
            StackName="faces",
            TemplateBody=TEMPLATE.read_text(),
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in given.items()],
        )
        described = formation.describe_stacks(StackName="faces")["Stacks"][0]
        self.outputs = {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]}
        self.bucket = self.outputs["Bucket"]
        arn = f"arn:aws:s3:::{self.bucket}"
        public = given["PublicRead"] == "true"
        self.names = {**given, "Bucket": self.bucket, "Bucket.Arn": arn, "Public": public, "Role.Arn": "the VM's"}
        self.names |= {"SinkRole.Arn": "the sink's", "Certificates": given.get("Certificates", "/faces/certificates")}
        self.names |= {"AWS::Partition": "aws", "AWS::Region": "eu-central-1", "AWS::AccountId": "123456789012"}

    def client(self, service: str) -> Any:
        """An AWS client."""
        return self.session.client(service)  # type: ignore[call-overload]

    def properties(self, resource: str) -> Any:
        """What the template asks for a resource, with these parameters: moto leaves out some of it."""
        declared = TEMPLATE_BODY["Resources"][resource]
        if "Condition" in declared and not self.names[declared["Condition"]]:
            return None
        return resolve(declared["Properties"], self.names)

    def vm(self) -> Any:
        """The only instance, as EC2 describes it."""
        (reservation,) = self.client("ec2").describe_instances()["Reservations"]
        (instance,) = reservation["Instances"]
        return instance

    def script(self) -> str:
        """What the VM runs at each start: the second part of its user data."""
        attribute = {"InstanceId": self.vm()["InstanceId"], "Attribute": "userData"}
        data = self.client("ec2").describe_instance_attribute(**attribute)["UserData"]["Value"]
        parts = list(email.message_from_bytes(base64.b64decode(data)).walk())[1:]
        assert [part.get_content_type() for part in parts] == ["text/cloud-config", "text/x-shellscript"]
        return str(parts[1].get_payload())


@pytest.fixture(autouse=True)
def aws() -> Iterator[None]:
    with mock_aws():
        yield


def test_the_template_passes_cfn_lint() -> None:
    found = [f"{match.linenumber}: {match}" for match in lint_all(TEMPLATE.read_text())]
    assert [line for line in found if not re.match(r"\d+: \[I", line)] == []  # I: hints


def test_a_public_stack_opens_the_bucket_just_as_cloud_up_would() -> None:
    stack = Stack(PublicRead="true")
    document = stack.properties("PublicReading")["PolicyDocument"]
    assert document["Statement"] == public_statements(stack.bucket, "aws")
    block = stack.properties("Bucket")["PublicAccessBlockConfiguration"]
    # New buckets refuse ACLs, and so should this one
    assert [name for name, blocked in block.items() if blocked] == ["BlockPublicAcls", "IgnorePublicAcls"]
    assert stack.outputs["Gallery"].endswith("/index.html")


def test_a_private_stack_has_no_policy_and_blocks_any() -> None:
    stack = Stack(PublicRead="false")
    assert stack.properties("PublicReading") is None
    assert set(stack.properties("Bucket")["PublicAccessBlockConfiguration"].values()) == {True}
    assert "Gallery" not in stack.outputs


def test_the_bucket_forgets_faces_and_outlives_the_stack() -> None:
    stack = Stack(ExpireDays="7")
    rules = stack.properties("Bucket")["LifecycleConfiguration"]["Rules"]
    assert {(rule["Prefix"], rule["ExpirationInDays"]) for rule in rules} == {("faces/", "7"), ("rejected/", "7")}
    assert TEMPLATE_BODY["Resources"]["Bucket"]["DeletionPolicy"] == "Retain"


def allowed(role: Any) -> list[tuple[str, Any]]:
    """What a role's own policies allow, an action at a time, and on what."""
    assert set(role) == {"AssumeRolePolicyDocument", "Policies"}
    statements = [it for policy in role["Policies"] for it in policy["PolicyDocument"]["Statement"]]
    assert {it["Effect"] for it in statements} == {"Allow"}
    actions = [
        (it["Action"] if isinstance(it["Action"], list) else [it["Action"]], it["Resource"]) for it in statements
    ]
    return [(action, resource) for several, resource in actions for action in several]


def test_the_sink_may_put_objects_and_nothing_else() -> None:
    stack = Stack()
    role = stack.properties("SinkRole")
    (trusted,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert (trusted["Principal"], trusted["Action"]) == ({"AWS": "the VM's"}, "sts:AssumeRole")
    resources = [f"arn:aws:s3:::{stack.bucket}/{key}" for key in ("faces/*", "rejected/*")]
    assert allowed(role) == [("s3:PutObject", resources)]


def test_the_vm_may_fetch_its_certificates_open_sessions_and_hand_over_the_sinks_role() -> None:
    stack = Stack(Certificates="/mine/certs")
    role = stack.properties("Role")
    assert role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"] == {"Service": "ec2.amazonaws.com"}
    (fetch, resource), *sessions = allowed(role)
    assert (fetch, resource) == ("ssm:GetParameter", "arn:aws:ssm:eu-central-1:123456789012:parameter/mine/certs")
    # https://docs.aws.amazon.com/systems-manager/latest/userguide/getting-started-create-iam-instance-profile.html
    assert [action for action, _ in sessions] == [
        "ssm:UpdateInstanceInformation",
        *(f"ssmmessages:{verb}{kind}Channel" for verb in ("Create", "Open") for kind in ("Control", "Data")),
    ]
    (hand_over,) = stack.properties("HandOver")["PolicyDocument"]["Statement"]
    assert hand_over == {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "the sink's"}


def test_only_8883_is_open_and_the_address_is_fixed() -> None:
    stack = Stack(EdgeAddresses="198.51.100.0/24")
    ec2 = stack.client("ec2")
    groups = ec2.describe_security_groups()["SecurityGroups"]
    (group,) = [group for group in groups if group["GroupName"] != "default"]
    assert stack.properties("VM")["SecurityGroupIds"] == [{"Fn::GetAtt": ["Firewall", "GroupId"]}]
    (rule,) = group["IpPermissions"]
    assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("tcp", 8883, 8883)
    assert [ip_range["CidrIp"] for ip_range in rule["IpRanges"]] == ["198.51.100.0/24"]
    (address,) = ec2.describe_addresses()["Addresses"]
    assert address["PublicIp"] == stack.outputs["Address"]
    assert address["InstanceId"] == stack.vm()["InstanceId"]


def test_no_container_reaches_the_metadata_service() -> None:
    assert Stack().properties("VM")["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}


def test_the_stack_waits_until_the_vm_says_how_its_start_ended() -> None:
    assert "ResourceSignal" in TEMPLATE_BODY["Resources"]["VM"]["CreationPolicy"]


@pytest.fixture
def account(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An AWS account, and the environment of a VM in it; aws is the real one, in an environment of its own."""
    aws = f'exec "{sys.executable}" -m uv tool run -q --from awscli==1.46.2 aws "$@"'
    notes = {name: f'printf "%s\\n" "$*" >>"{tmp_path}/{name}"' for name in ("cfn-signal", "systemd-run")}
    path = stubs(tmp_path, aws=aws, dnf="exit 0", systemctl='[ "$1" != is-active ]', **notes)
    with running("moto") as store:
        keys = {**store.keys, "AWS_ENDPOINT_URL": store.url, "AWS_DEFAULT_REGION": "eu-central-1"}
        yield {**os.environ, **keys, "PATH": path}


class VM:
    """A VM that the template starts, with a repository whose cloud/up only says what it finds."""

    def __init__(self, directory: Path, env: dict[str, str], up: str = "cat cloud/.env; find certs -type f") -> None:
        self.directory, self.env = directory, env
        self.root = directory / "vm"
        repository = directory / "repository"
        (repository / "cloud").mkdir(parents=True)
        (repository / "cloud/up").write_text(f"#!/bin/sh\n{up}\n")
        (repository / "cloud/up").chmod(0o755)
        shutil.copy(ROOT / "cloud/assume-role", repository / "cloud")
        git = ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@example.org"]
        for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "first"], ["branch", "release"]):
            run(*git, *command)
        self.stack = Stack(Repository=f"file://{repository}", Ref="release")

    def start(self, shell: str = "sh", patience: int = 900, status: int = 0) -> str:
        """Run what the VM runs at a start, which must end with that status; gives what it printed."""
        script = self.stack.script().replace("/opt/faces", str(self.root)).replace("/opt/aws/bin/", "")
        assert "+ 900" in script
        script = script.replace("+ 900", f"+ {patience}")
        done = subprocess.run([*shell.split(), "-c", script], env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def noted(self, program: str) -> list[str]:
        """What a program was called with, a line a call."""
        return (self.directory / program).read_text().splitlines()


def documented(word: str) -> str:
    """The command of docs/operations.md that has this word in it, as it stands there."""
    page = (ROOT / "docs/operations.md").read_text().replace("\\\n", " ")
    (command,) = [line[2:] for line in page.splitlines() if line.startswith("$ ") and word in line]
    return command


def test_userdata_holds_no_key_and_is_a_good_script() -> None:
    parameters = TEMPLATE_BODY["Parameters"]
    assert not [name for name, parameter in parameters.items() if "NoEcho" in parameter]
    checked = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), "-s", "sh", "-"],
        input=Stack().script(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_the_vm_fetches_certificates_hands_over_a_role_and_runs_cloud_up(
    tmp_path: Path, account: dict[str, str]
) -> None:
    vm = VM(tmp_path, account)
    account["CERTS"] = str(tmp_path / "certs")
    for party in ("server", "sink"):
        run(ROOT / "mosquitto" / "certs", party, env=account)
    packed, put = documented("put-parameter").split("| aws ")
    assert int(run("sh", "-c", f"cd '{tmp_path}' && {packed} | wc -c", env=account).stdout) <= 4096
    run("sh", "-c", f"cd '{tmp_path}' && {packed} | aws {put}", env=account)
    run("sh", "-c", f"cd '{ROOT}' && {documented('cloudformation deploy')}", env=account)
    run("sh", "-c", documented("describe-stacks"), env=account)
    assert vm.stack.outputs["Session"].endswith(f"--target {vm.stack.vm()['InstanceId']}")

    for shell in ("sh", "bash --posix"):  # Amazon Linux's sh is the latter; the second is a later start
        told = vm.start(shell)
    assert f"S3_BUCKET={vm.stack.bucket}\nAWS_REGION=eu-central-1\nAWS_CONFIG_FILE={vm.root}/aws/config\n" in told
    assert {"certs/cloud-broker/tls.key", "certs/s3sink/tls.key"} <= set(told.split())
    assert "ca.key" not in told
    for secret in ("certs/cloud-broker/tls.key", "certs/s3sink/tls.key", "cloud/.env", "aws/credentials.json"):
        assert stat.S_IMODE((vm.root / secret).stat().st_mode) == 0o600
    assert vm.noted("cfn-signal")[0].startswith("-e 0 ")

    # What the sink's SDK takes from there, and what the timer renews
    (timer, *_) = vm.noted("systemd-run")
    assert "--on-unit-active 15min" in timer
    keys = json.loads((vm.root / "aws/credentials.json").read_text())
    found = "import boto3; print(boto3.Session().get_credentials().get_frozen_credentials().token)"
    env = {"PATH": os.environ["PATH"], "AWS_CONFIG_FILE": str(vm.root / "aws/config")}
    assert run(sys.executable, "-c", found, env=env).stdout.strip() == keys["SessionToken"]
    run("sh", "-c", timer[timer.index(f"{vm.root}/cloud/assume-role") :], env=account)
    assert json.loads((vm.root / "aws/credentials.json").read_text())["AccessKeyId"] != keys["AccessKeyId"]


def test_a_start_that_fails_is_told_to_cloudformation(tmp_path: Path, account: dict[str, str]) -> None:
    vm = VM(tmp_path, account)
    vm.start(patience=0, status=1)  # there are no certificates
    (signal,) = vm.noted("cfn-signal")
    assert signal.startswith("-e 1 --reason certificates: see /var/log/cloud-init-output.log ")


# ---- cloud/up and cloud/down, as far as they get without an engine -----------------------------------------


def run(*command: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def stubs(directory: Path, **programs: str) -> str:
    """A PATH whose first directory has programs of these names, each a line of shell."""
    folder = directory / "stubs"
    folder.mkdir(exist_ok=True)
    for name, line in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


class Cloud:
    """cloud/up with settings of its own and a stand-in for docker, which notes what it is asked."""

    def __init__(self, directory: Path) -> None:
        self.env_file = directory / "env"
        self.env_file.write_text("S3_BUCKET=faces-demo\nCA_HERE=1\n")
        self.certs = directory / "certs"
        self.asked = directory / "asked"
        note = f'echo "$*" >>"{self.asked}"'
        self.env = {
            **os.environ,
            "ENV_FILE": str(self.env_file),
            "CERTS": str(self.certs),
            "PATH": stubs(directory, docker=f'{note}; [ "$1" = version ] || {{ echo no such thing >&2; exit 1; }}'),
        }

    def refusal(self, script: str = "up", *arguments: str, status: int = 1) -> str:
        """What the script says on its standard error when it fails; it must have made nothing."""
        command: list[str | Path] = [ROOT / "cloud" / script, *arguments]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == status, done.stdout + done.stderr
        asked = self.asked.read_text() if self.asked.exists() else ""
        assert not any(word in asked for word in ("create", "run", "rm", "stop", "rename")), asked
        lines: list[str] = done.stderr.splitlines()
        (line,) = lines
        assert line.startswith((f"cloud/{script}: ", "mosquitto/certs: ")), line
        return line


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


def test_missing_settings(cloud: Cloud) -> None:
    cloud.env_file.unlink()
    assert "cp cloud/.env.example cloud/.env" in cloud.refusal(status=2)


@pytest.mark.parametrize("settings", ["", "S3_BUCKET=\n", "#S3_BUCKET=faces\n", "S3_BUCKET=faces\nS3_BUCKET=\n"])
def test_unset_bucket(cloud: Cloud, settings: str) -> None:
    cloud.env_file.write_text(settings)
    assert "give the name of a bucket" in cloud.refusal(status=2)


@pytest.mark.parametrize(("path", "why"), [("aws/config", "give an absolute path"), ("/none/config", "no such file")])
def test_a_file_of_the_sdk_that_is_not_there(cloud: Cloud, path: str, why: str) -> None:
    cloud.env_file.write_text(f"S3_BUCKET=faces\nCA_HERE=1\nAWS_CONFIG_FILE={path}\n")
    line = cloud.refusal(status=2)
    assert f"AWS_CONFIG_FILE={path}" in line
    assert why in line


def test_the_example_is_complete_but_for_the_bucket(cloud: Cloud) -> None:
    cloud.env_file.write_text((ROOT / "cloud" / ".env.example").read_text())
    assert "give the name of a bucket" in cloud.refusal(status=2)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('CLOUD_NAMES="203.0.113.7 faces.example.org"', "2: CLOUD_NAMES: no quotes"),
        ("CLOUD_NAMES='203.0.113.7'", "2: CLOUD_NAMES: no quotes"),
        ("CLOUD_NAMES=203.0.113.7\r", "2: CLOUD_NAMES: it ends in a carriage return"),
        ("CLOUD_NAMES=203.0.113.7,faces.example.org", "2: CLOUD_NAMES=203.0.113.7,faces.example.org: give names"),
        ("CLOUD_NAMES=https://faces.example.org", "2: CLOUD_NAMES=https://faces.example.org: give names"),
        ("CLOUD_PORT=abc", "2: CLOUD_PORT=abc: give a number from 1 to 65535"),
        ("CLOUD_PORT=65536", "2: CLOUD_PORT=65536: give a number from 1 to 65535"),
        ("CLOUD_PORT=8883 # the usual one", "2: CLOUD_PORT=8883 # the usual one: give a number"),
        ("export S3_BUCKET=x", "2: S3_BUCKET: leave out the export"),
        ("S3_BUCKET = x", "2: write NAME=value"),
        ("S3_BUCKET: x", "2: write NAME=value"),
        ("  S3_BUCKET=x", "2: write NAME=value"),
        ("AWS_REGION= eu-central-1", "2: AWS_REGION: no spaces around the value"),
        ("AWS_SECRET_ACCESS_KEY=secret ", "2: AWS_SECRET_ACCESS_KEY: no spaces around the value"),
        ("S3_BUKET=faces", "2: S3_BUKET: no setting of the cloud's side"),
        # of the sink's settings, one that cloud/up gives it
        ("MQTT_HOST=broker", "2: MQTT_HOST: no setting of the cloud's side"),
        ("AWS_SECRET_ACCESS_KEY=\nsecret", "3: write NAME=value"),
        ("AWS_SECRET_ACCESS_KEY=\nsecret=", "3: write NAME=value"),
    ],
)
def test_a_line_that_would_be_misread(cloud: Cloud, line: str, said: str) -> None:
    cloud.env_file.write_bytes(f"S3_BUCKET=faces\n{line}\n".encode())
    shown = cloud.refusal(status=2)
    assert shown.startswith(f"cloud/up: {cloud.env_file}, line {said}")
    assert "secret" not in shown
    assert not cloud.certs.exists()


def test_every_bad_line_is_named_in_one_go(cloud: Cloud) -> None:
    cloud.env_file.write_text('export S3_BUCKET=x\n\n# a comment\nCLOUD_NAMES="a"\nCLOUD_PORT=abc\nS3_PUBLISH=1')
    done = subprocess.run([ROOT / "cloud/up"], env=cloud.env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    named = re.findall(r"^cloud/up: .*, line (\d): ", done.stderr, re.M)
    assert named == ["1", "4", "5", "6"]
    assert not cloud.asked.exists()


@pytest.mark.parametrize("names", ["203.0.113.7", "faces.example.org vm-1", "2001:db8::7 203.0.113.7", ""])
def test_names_and_addresses_that_are_some(cloud: Cloud, names: str) -> None:
    cloud.env_file.write_bytes(f"S3_BUCKET=\nCLOUD_NAMES={names}\n# Z\xfcrich\n".encode("latin-1"))
    assert "give the name of a bucket" in cloud.refusal(status=2)


def test_no_setting_of_the_sink_is_refused(cloud: Cloud) -> None:
    table = re.findall(r"^\| `(\w+)`[^|]* \| (?:all|[^|]*s3sink[^|]*) \|", SETTINGS.read_text(), re.M)
    example = re.findall(r"^#?(\w+)=", (ROOT / "cloud/.env.example").read_text(), re.M)
    given_by_up = {"MQTT_HOST", "MQTT_PORT", "MQTT_CERTS", "HEARTBEAT"}
    names = {*table, *example, "AWS_PROFILE", "https_proxy"} - given_by_up - {"S3_BUCKET", "CLOUD_PORT", "CLOUD_NAMES"}
    assert names >= {"MQTT_TOPIC", "S3_UPLOADS", "S3_EXPIRE_DAYS", "AWS_REGION", "SINK_IMAGE"}
    cloud.env_file.write_text("S3_BUCKET=\n" + "".join(f"{name}=1\n" for name in sorted(names)))
    assert "give the name of a bucket" in cloud.refusal(status=2)


@pytest.mark.parametrize("script", ["up", "down"])
def test_docker_not_running(cloud: Cloud, script: str) -> None:
    stubs(cloud.env_file.parent, docker='echo "Cannot connect to the Docker daemon" >&2; exit 1')
    line = cloud.refusal(script)
    assert "Docker does not answer, start it" in line
    assert "Cannot connect to the Docker daemon" in line


@pytest.mark.parametrize("script", ["up", "down"])
def test_run_twice_at_once(cloud: Cloud, script: str) -> None:
    with (ROOT / "cloud" / "up").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another cloud/up or cloud/down is running" in cloud.refusal(script)


def test_down_knows_one_argument(cloud: Cloud) -> None:
    assert "usage: cloud/down [--all]" in cloud.refusal("down", "--al", status=2)


def make_certificates(cloud: Cloud) -> None:
    for party in ("server", "sink"):
        run(ROOT / "mosquitto" / "certs", party, env=cloud.env)


def test_the_ca_s_key_is_refused_a_place_on_the_vm_unless_asked_for(cloud: Cloud) -> None:
    cloud.env_file.write_text("S3_BUCKET=faces-demo\n")
    # nor is a CA made there
    assert "ca.crt: bring it, cloud-broker and s3sink" in cloud.refusal(status=2)
    assert not cloud.certs.exists()
    make_certificates(cloud)
    assert "ca.key: whoever takes this machine could be any device" in cloud.refusal(status=2)
    (cloud.certs / "ca.key").unlink()
    (cloud.certs / "s3sink/tls.key").unlink()
    # and none is signed there
    assert "make the certificate where the CA is" in cloud.refusal(status=2)


def test_a_key_of_another_certificate(cloud: Cloud) -> None:
    make_certificates(cloud)
    shutil.copy(cloud.certs / "s3sink/tls.key", cloud.certs / "cloud-broker/tls.key")
    assert "cloud-broker/tls.key is not the key of the tls.crt" in cloud.refusal()


def test_a_certificate_of_somebody_else(cloud: Cloud) -> None:
    make_certificates(cloud)
    run(ROOT / "mosquitto" / "certs", "device", "jetson-01", env=cloud.env)
    for name in ("tls.key", "tls.crt"):
        shutil.copy(cloud.certs / "jetson-01" / name, cloud.certs / "s3sink" / name)
    assert "is not made out to s3sink" in cloud.refusal()


def test_a_client_certificate_where_a_server_is_needed(cloud: Cloud) -> None:
    make_certificates(cloud)
    for name in ("tls.key", "tls.crt"):
        shutil.copy(cloud.certs / "s3sink" / name, cloud.certs / "cloud-broker" / name)
    assert "is no certificate for cloud-broker" in cloud.refusal()


def test_a_certificate_of_another_ca_where_ours_cannot_sign(cloud: Cloud) -> None:
    make_certificates(cloud)
    other = {**cloud.env, "CERTS": str(cloud.certs.parent / "other")}
    run(ROOT / "mosquitto" / "certs", "server", env=other)
    shutil.copy(cloud.certs.parent / "other/cloud-broker/tls.crt", cloud.certs / "cloud-broker/tls.crt")
    (cloud.certs / "ca.key").unlink()
    assert "make the certificate where the CA is" in cloud.refusal(status=2)
