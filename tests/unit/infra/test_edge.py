"""What runs on the device: the deployment manifest, the image's recipe, the unit, and their settings."""

import configparser
import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from device_agent.settings import NAMES, PREFIX
from shared.strict_json import loads

ROOT = Path(__file__).resolve().parents[3]
EDGE = ROOT / "infra" / "edge"
SECRET = re.compile(r"SharedAccessKey|connection_string\s*=|CONNECTION_STRING\"?[:=]", re.IGNORECASE)


@pytest.fixture(scope="module")
def manifest():
    return loads((EDGE / "deployment.template.json").read_bytes(), where="manifest")["content"][
        "modulesContent"
    ]


@pytest.fixture(scope="module")
def agent_module(manifest):
    return manifest["$edgeAgent"]["properties.desired"]["modules"]["device-agent"]


def test_deployment_leaves_the_agents_desired_properties_alone(manifest):
    assert manifest.keys() == {"$edgeAgent", "$edgeHub"}


def test_create_options_are_strings_of_json_that_a_twin_can_hold(manifest):
    desired = manifest["$edgeAgent"]["properties.desired"]
    modules = {**desired["systemModules"], **desired["modules"]}

    assert modules.keys() == {"edgeAgent", "edgeHub", "device-agent"}
    for module in modules.values():
        options = module["settings"]["createOptions"]
        assert isinstance(options, str)
        assert isinstance(json.loads(options), dict)
        assert len(options) < 4096


def test_module_is_confined_and_reaches_the_cpm_and_its_own_folders_only(agent_module):
    options = json.loads(agent_module["settings"]["createOptions"])
    host = options["HostConfig"]

    assert host["Binds"] == [
        "/run/cpm:/run/cpm",
        "/etc/device-agent:/etc/device-agent:ro",
        "device-agent-state:/var/lib/device-agent",
    ]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert not {"Privileged", "NetworkMode", "PidMode", "CapAdd", "Devices"} & host.keys()
    assert options["User"] == user_of_the_image()


def test_settings_in_manifest_and_unit_are_settings_of_the_agent(agent_module):
    named = set(agent_module["env"]) | set(re.findall(r"\bDEVICE_AGENT_\w+(?==)", unit_text()))

    assert named
    assert {name.removeprefix(PREFIX).lower() for name in named} <= NAMES


@pytest.mark.parametrize("name", ["deployment.template.json", "Dockerfile", "requirements.txt"])
def test_no_secret_stands_in_what_is_deployed(name):
    assert SECRET.search((EDGE / name).read_text()) is None


def dockerfile() -> list[str]:
    text = re.sub(r"\\\n", " ", (EDGE / "Dockerfile").read_text())
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def user_of_the_image() -> str:
    return [line.split()[1] for line in dockerfile() if line.startswith("USER ")][-1]


def test_dockerfile_passes_the_linter():
    linter = Path(sys.executable).with_name("hadolint")

    result = subprocess.run(
        [linter, EDGE / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False
    )

    assert result.returncode == 0, result.stdout


def test_image_runs_as_nobody_in_particular_and_its_base_can_be_chosen():
    lines = dockerfile()

    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user_of_the_image())
    assert [line for line in lines if line.startswith("ARG ")] == ["ARG BASE=python:3.13-slim"]
    assert {line.split()[1] for line in lines if line.startswith("FROM ")} == {"${BASE}"}
    assert not [line for line in lines if line.startswith("ADD ")]


def test_image_installs_nothing_without_a_hash():
    installs = re.findall(r"pip install[^&]*", " ".join(dockerfile()))

    assert len(installs) == 2
    assert all("--require-hashes" in install for install in installs)
    for name in ("requirements.txt", "requirements-build.txt"):
        text = (EDGE / name).read_text()
        assert len(re.findall(r"^\S+==", text, re.MULTILINE)) <= text.count("--hash=sha256:")


def test_image_holds_what_the_agent_imports_in_the_versions_that_were_tested():
    pinned = pins(EDGE / "requirements.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["agent"]]

    assert {re.split(r"[\[><=~! ;]", text, maxsplit=1)[0] for text in wanted} <= pinned.keys()
    tested = pins(ROOT / "requirements-dev.txt")
    assert {name: version for name, version in pinned.items() if tested.get(name) != version} == {}
    assert not {"azure-iot-hub", "uamqp", "azure-keyvault-keys", "aiohttp"} & pinned.keys()


def pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.-]+)(?:\[[a-z0-9,-]+\])?==([^\s;]+)", path.read_text(), re.MULTILINE))


def modules_of(package: str) -> list[str]:
    files = (ROOT / package).rglob("*.py")
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def imported_by(package: str) -> set[str]:
    """Import every module of a package in a process of its own, and return all that this loaded."""
    code = f"import sys, {', '.join(modules_of(package))}; print('\\n'.join(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    return set(result.stdout.split())


def test_agent_imports_nothing_that_opens_keys_or_packages_or_speaks_for_the_service():
    loaded = imported_by("device_agent")

    assert "azure.iot.device" in loaded
    assert not {"shared.keys.unwrapping", "shared.cpk", "azure.iot.hub", "uamqp", "msrest", "cpm"} & loaded


def test_cpm_speaks_to_no_cloud():
    code = "import sys, cpm.main, cpm.serve; print('\\n'.join(sorted(sys.modules)))"

    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )

    assert not {"azure", "requests", "urllib3", "uamqp", "device_agent"} & set(result.stdout.split())


def test_agent_that_runs_has_not_loaded_what_it_seldom_needs():
    code = "import sys, device_agent.main, device_agent.adapters.links;print('\\n'.join(sorted(sys.modules)))"

    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )

    assert not {"urllib3", "prometheus_client", "shared.release.verifying"} & set(result.stdout.split())


# Compiled, and found as wheels for aarch64 by `pip download --only-binary=:all:` for manylinux2014_aarch64.
# All others are pure Python; paho-mqtt as a source distribution.
COMPILED_AND_CHECKED = {"cbor2", "cffi", "charset-normalizer", "cryptography"}


def test_compiled_dependencies_are_those_that_exist_for_aarch64():
    compiled = {
        name
        for name in pins(EDGE / "requirements.txt")
        if any(str(file).endswith(".so") for file in metadata.files(name) or [])
    }

    assert compiled <= COMPILED_AND_CHECKED
    assert "cryptography" in compiled


def unit_text() -> str:
    return (EDGE / "device-agent.service").read_text()


def test_unit_confines_the_agent():
    unit = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes=("#",))
    unit.optionxform = str
    unit.read_string(unit_text())
    service = unit["Service"]

    assert service["User"] == "device-agent"
    assert service["ExecStart"].startswith("/usr/bin/device-agent run ")
    assert service["RestartPreventExitStatus"] == "2"
    for name in ("NoNewPrivileges", "PrivateDevices", "PrivateTmp", "ProtectHome", "RestrictNamespaces"):
        assert service[name] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    assert service["StateDirectoryMode"] == "0700"
    assert "SharedAccessKey" not in unit_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_unit_is_as_confined_as_systemd_can_tell():
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager"]

    result = subprocess.run(
        [*command, EDGE / "device-agent.service"], capture_output=True, text=True, timeout=60, check=False
    )

    assert result.returncode == 0, result.stdout


def test_unit_is_started_again_for_ever():
    assert "StartLimitIntervalSec=0" in unit_text().splitlines()
    assert "Restart=always" in unit_text().splitlines()
