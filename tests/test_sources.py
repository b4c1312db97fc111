"""Is what stands in several places the same there, and in the documents what the code does?"""

import re

from tests.pipeline import ROOT

SERVICES = ("detector", "logger", "s3sink")
CODE = [ROOT / "service.py", *(path for name in SERVICES for path in (ROOT / name).glob("*.py"))]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


def conf(path: str) -> list[list[str]]:
    """Give the settings of a mosquitto.conf, each as its words."""
    lines = (ROOT / path).read_text().splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


def test_each_image_gets_its_own_folder_and_what_is_shared_and_no_more() -> None:
    for service in SERVICES:
        copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / service / "Dockerfile").read_text(), re.M)
        named = {name for line in copied for name in line.split()}
        assert "service.py" in named
        assert all(name == "service.py" or name.startswith(f"{service}/") for name in named)


def test_the_services_pin_the_same_versions() -> None:
    pins = [
        line.split("==")
        for service in SERVICES
        for line in (ROOT / service / "requirements.in").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert len({name for name, _ in pins}) == len({(name, version) for name, version in pins})


def test_the_device_s_name_is_the_same_in_all_lines_of_the_edge_conf() -> None:
    names = re.findall(
        r"^(?:remote_clientid |topic .*/)(jetson-\w+)", (ROOT / "mosquitto/edge/mosquitto.conf").read_text(), re.M
    )
    assert names == ["jetson-01"] * 5


def test_both_brokers_have_the_same_packet_limit_and_window() -> None:
    for name in ("max_packet_size", "max_inflight_messages"):
        values = [
            words[1]
            for side in ("edge", "cloud")
            for words in conf(f"mosquitto/{side}/mosquitto.conf")
            if words[0] == name
        ]
        assert len(values) == 2
        assert len(set(values)) == 1


def test_each_image_takes_all_its_packages_by_hash_and_those_that_we_chose() -> None:
    for service in SERVICES:
        locked = (ROOT / service / "requirements.txt").read_text()
        chosen = (ROOT / service / "requirements.in").read_text().splitlines()
        assert {line for line in chosen if not line.startswith("#")} <= set(re.findall(r"^\S+==\S+", locked, re.M))
        assert all("--hash=sha256:" in entry for entry in re.split(r"^(?=\w)", locked, flags=re.M)[1:])
        assert "--require-hashes" in (ROOT / service / "Dockerfile").read_text()


def test_every_setting_that_the_code_reads_is_in_the_one_table() -> None:
    code = "".join(path.read_text() for path in CODE)
    read = set(re.findall(r'\.(?:text|number)\(\s*"(\w+)"', code)) | {"MQTT_CERTS", "HEARTBEAT"}
    settings = ROOT / "docs/settings.md"
    table = re.findall(r"^\| `(\w+)`", settings.read_text(), re.M)
    assert read - set(table) == set()
    assert len(table) == len(set(table))
    # and there is no second one
    rows = [(page, name) for page in DOCUMENTS for name in table if f"\n| `{name}` |" in page.read_text()]
    assert {page for page, _ in rows} == {settings}


def test_markdown_links_lead_somewhere() -> None:
    for page in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    assert DOCUMENTS
