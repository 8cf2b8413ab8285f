"""The help alone suffices: what it says is run, word for word; so are the pipelines and the completion."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from simulators.workshop import CPK_TOOL, make_workshop, tool, write_pair

ROOT = Path(__file__).parents[2]
CI = ROOT / "examples" / "ci"


def bash(script, folder, *, env=None):
    path = f"{CPK_TOOL.parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | {"PATH": path} | (env or {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_what_the_help_says_packages_an_application(tmp_path):
    steps = tool("--help").stdout.partition("package an application, from nothing:\n")[2].partition("\n\n")[0]
    commands = [line.strip() for line in steps.splitlines() if line.startswith("       ")]
    script = "\n".join(commands)
    install = "cpk-tool install -p app.cpk"
    assert script.endswith(install)
    (tmp_path / "app.pyz").write_bytes(b"an application")

    ran = bash(script.removesuffix(install), tmp_path)

    assert ran.returncode == 0, ran.stderr
    assert "app.cpk: verified" in ran.stdout
    assert "CN=My company packages" in ran.stdout


def test_what_the_help_of_digest_says_signs_with_openssl(tmp_path):
    write_pair(tmp_path, "sign")
    make_workshop(tmp_path, tmp_path)
    (tmp_path / "app.bin").rename(tmp_path / "app.pyz")
    (tmp_path / "cpk.toml").write_text(
        'application-id = "my_app"\nin-file = "app.pyz"\nout-file = "app.cpk"\nkey-store = "keys.json"\n'
    )
    examples = tool("digest", "--help").stdout.partition("\nexamples:\n")[2]
    flows = re.split(r"^  # .*$", examples, flags=re.MULTILINE)[1:]

    for flow in flows:
        ran = bash(flow, tmp_path)
        assert ran.returncode == 0, ran.stderr
        check = tool("verify", "app.cpk", "--key-store", "keys.json", "--trust", "sign.pem", cwd=tmp_path)
        assert check.returncode == 0, check.stderr
        (tmp_path / "app.cpk").unlink()
    assert len(flows) == 2


# ── cpk.toml ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def project(tmp_path):
    """A project with a payload, keys, and a cpk.toml like the one of the examples."""
    write_pair(tmp_path, "sign")
    write_pair(tmp_path, "build-machine")
    workshop = make_workshop(tmp_path, tmp_path)
    (tmp_path / "dist").mkdir()
    (tmp_path / "app.bin").rename(tmp_path / "dist" / "app.pyz")
    text = (CI / "cpk.toml").read_text()
    text = text.replace("https://keys.example/api/WrapKey", "keys.json")
    text = text.replace("https://my-vault.vault.azure.net/keys/packages", "sign.key")
    (tmp_path / "cpk.toml").write_text(text.replace("packages.pem", "sign.pem"))
    return workshop


def test_a_build_from_a_file_of_options_is_found_from_any_folder(project, tmp_path_factory):
    config = project.folder / "cpk.toml"
    own = ("--client-key", project.folder / "build-machine.key")

    built = tool("build", "--config", config, *own, "--json", cwd=tmp_path_factory.mktemp("elsewhere"))

    assert built.returncode == 0, built.stderr
    assert json.loads(built.stdout)["file"] == str(project.folder / "dist" / "app.cpk")


def test_problems_of_file_and_flags_are_told_together(project):
    (project.folder / "cpk.toml").write_text('vendr = "x"\nname = 1\n')

    refused = tool("build", "-c", "cpk.toml", "--package-version", "1", "--json", cwd=project.folder)

    assert refused.returncode == 2
    assert refused.stderr.replace("cpk-tool: error: ", "").splitlines() == [
        "cpk.toml: 'vendr': no option of this command has this name; 'vendor' is one",
        "cpk.toml: name: expected text, found int",
        "--package-version: expected three numbers up to 4294967295 such as 1.0.0, found '1'",
    ]
    assert len(json.loads(refused.stdout)["problems"]) == 3


def test_a_file_of_options_that_is_none_is_told(project):
    (project.folder / "cpk.toml").write_text("application-id = ")

    refused = tool("build", "-c", "cpk.toml", "--json", cwd=project.folder)

    assert refused.returncode == 2
    assert refused.stderr.startswith("cpk-tool: error: cpk.toml: expected TOML: ")
    assert json.loads(refused.stdout)["result"] == "usage"
    assert tool("build", "-c", "none.toml", cwd=project.folder).returncode == 1


# ── pipelines ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_github_action_builds_a_package(project):
    action = yaml.safe_load((CI / "github" / "action.yml").read_text())
    steps = {step["name"]: step for step in action["runs"]["steps"]}
    output = project.folder / "output"
    environment = {
        "CONFIG": "cpk.toml",
        "PACKAGE_VERSION": "1.2.3",
        "PACKAGE": "dist/app.cpk",
        "CLIENT_KEY": (project.folder / "build-machine.key").read_text(),
        "CPK_FUNCTION_KEY": "",
        "RUNNER_TEMP": str(project.folder),
        "GITHUB_OUTPUT": str(output),
    }
    before = project.names()

    for name in ("Build the package", "Look at the package"):
        assert steps[name]["env"].keys() <= environment.keys()
        ran = bash(steps[name]["run"], project.folder, env=environment)
        assert ran.returncode == 0, ran.stderr

    report = json.loads(output.read_text().split("END-OF-REPORT\n")[1])
    assert report["version"] == "1.2.3"
    assert sorted([*before, "output"]) == project.names()  # the client key's file is gone
    assert "BEGIN" not in ran.stdout + ran.stderr


def test_the_github_action_puts_no_expression_into_a_script():
    """An expression in a script would run whatever a tag or input is called."""
    documents = [
        yaml.safe_load((CI / "github" / name).read_text()) for name in ("action.yml", "build-package.yml")
    ]
    steps = [*documents[0]["runs"]["steps"], *documents[1]["jobs"]["package"]["steps"]]

    assert [step["run"] for step in steps if "${{" in step.get("run", "")] == []
    inputs = documents[0]["inputs"]
    used = next(step for step in steps if step.get("uses", "").startswith("./"))["with"]
    assert {name for name, entry in inputs.items() if entry.get("required")} <= used.keys() <= inputs.keys()


def test_the_gitlab_job_builds_a_package(project):
    job = yaml.safe_load((CI / "gitlab" / "cpk-build.gitlab-ci.yml").read_text())[".cpk-build"]
    environment = job["variables"] | {
        "AZURE_ID_TOKEN": "token",
        "CI_COMMIT_TAG": "v1.2.3",
        "BUILD_MACHINE_KEY": str(project.folder / "build-machine.key"),
        "CPK_FUNCTION_KEY": "",
    }

    ran = bash("\n".join(job["script"]), project.folder, env=environment)

    assert ran.returncode == 0, ran.stderr
    assert json.loads((project.folder / "cpk-report.json").read_text())["version"] == "1.2.3"
    assert (project.folder / job["variables"]["CPK_PACKAGE"]).exists()


# ── completion ────────────────────────────────────────────────────────────────────────────────────────────


def completed(words, folder):
    """Return what bash offers for the last of ``words``."""
    quoted = " ".join(f"'{word}'" for word in words)
    script = (
        "source <(cpk-tool completion bash)\n"
        f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}\n"
        "entry=$(complete -p cpk-tool | sed 's/.*-F \\([^ ]*\\) .*/\\1/')\n"
        "COMPREPLY=()\n"
        f"\"$entry\" cpk-tool '{words[-1]}' '{words[-2]}' || true\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    ran = bash(f"set +u\n{script}", folder)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split())


def test_bash_completes_commands_options_choices_and_files(tmp_path):
    (tmp_path / "application.pyz").touch()

    assert {"build", "verify", "rewrap", "completion"} <= completed(["cpk-tool", ""], tmp_path)
    assert {"--profile", "--prepare"} <= completed(["cpk-tool", "build", "--pr"], tmp_path)
    assert completed(["cpk-tool", "build", "--profile", "re"], tmp_path) == {"reference", "recommended"}
    assert completed(["cpk-tool", "build", "-i", "app"], tmp_path) == {"application.pyz"}


def test_completion_comes_as_json_too():
    document = json.loads(tool("completion", "zsh", "--json").stdout)

    assert document["script"].startswith("#compdef cpk-tool")
