"""`docker/compose.yaml` as a text: what is promised of each service, whoever starts it.  It starts nothing."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.containers.composing import PROFILES, compose_commands

DOCKER = Path(__file__).parents[2] / "docker"
FILE = DOCKER / "compose.yaml"
WRITTEN: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = WRITTEN["services"]
SERVERS = [name for name, one in SERVICES.items() if one["image"].startswith("${REDIS_IMAGE")]
ENDS = {"cluster-join", "market"}
"""Do their work and end: nothing to look at, nothing to start again."""
every_service = pytest.mark.parametrize("service", [pytest.param(one, id=name) for name, one in SERVICES.items()])


def default_of(value: str) -> str:
    """Return the text with the default in the place of each variable that has one."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def bound_files(service: dict[str, Any]) -> list[str]:
    volumes = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume) for volume in service.get("volumes", ())]
    return [volume.partition(":")[0] for volume in volumes if volume.startswith("./")]


def test_each_profile_has_its_services():
    by_profile = {
        profile: {name for name, one in SERVICES.items() if profile in one["profiles"]} for profile in PROFILES
    }
    assert by_profile == {
        "single": {"redis", "cache"},
        "sentinel": {f"{kind}-{n}" for kind in ("redis", "sentinel") for n in (1, 2, 3)},
        "cluster": {f"cluster-{n}" for n in range(1, 7)} | {"cluster-join"},
        "observability": {"exporter", "prometheus", "grafana"},
        "app": {"market"},
    }


@every_service
def test_a_service_can_do_no_more_than_it_must(service: dict[str, Any]):
    """Whoever takes one over is nobody, on a disk that cannot be written, and has nobody to talk to outside."""
    assert service["user"].startswith("${GRIDSYNC_UID:?"), "not root, and never by oversight"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "network_mode", "pid", "ipc", "devices", "userns_mode"} & service.keys()
    assert not [volume for volume in service.get("volumes", ()) if "docker.sock" in volume]
    assert set(service["networks"]) <= {"private", "loopback"}
    assert WRITTEN["networks"]["private"]["internal"] is True


@every_service
def test_a_service_has_a_bound_for_everything_it_takes(service: dict[str, Any]):
    assert re.fullmatch(r"\d+[mg]", default_of(service["mem_limit"]))
    assert service["cpus"] > 0
    assert service["pids_limit"] > 0
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert all("size=" in one for one in service["tmpfs"])


@every_service
def test_nothing_is_reachable_from_another_machine(service: dict[str, Any]):
    for port in service.get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", port)


@every_service
def test_an_image_is_named_by_a_variable_and_pinned_to_a_version(service: dict[str, Any]):
    """What was tried is what runs, and an image of one's own can be put in its place."""
    assert re.fullmatch(r"\$\{[A-Z]+_IMAGE:-[^}]+\}", service["image"])
    name, _, version = default_of(service["image"]).partition(":")
    assert re.search(r"\d+\.\d+\.\d+", version) or name == "gridsync-market", "built here"


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - ENDS))
def test_a_service_is_looked_at_and_started_again(name: str):
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_has_room_to_save_and_time_to_stop(name: str):
    service = SERVICES[name]
    if name in ENDS:
        return
    assert service["stop_grace_period"] == "1m"
    assert service["ulimits"]["nofile"] >= 10_000 + 32, "maxclients, and what the server keeps for itself"
    assert service["hostname"] == name, "which its certificate names"
    assert f"${{GRIDSYNC_DIR}}/data/{name}:/data" in service["volumes"]


def test_no_password_stands_in_the_file():
    """`docker inspect`, and whoever reads the file, show settings and arguments: secrets are files."""
    text = FILE.read_text()
    for name, value in re.findall(r"(?im)^\s*([\w.-]*(?:password|secret|token|auth)\w*):\s*(\S+)", text):
        assert name.upper().endswith("_FILE") or name in {"secrets", "GF_AUTH_ANONYMOUS_ENABLED"}, (name, value)
    assert re.findall(r"redis\w*://[^@/\s]*:[^@/\s]*@", text) == []
    for one in WRITTEN["secrets"].values():
        assert one["file"].startswith("${GRIDSYNC_DIR}/"), "environment: would show it as well"


@every_service
def test_a_service_gets_the_secrets_that_it_uses_and_no_others(service: dict[str, Any]):
    assert set(service.get("secrets", ())) <= WRITTEN["secrets"].keys()
    # Only what makes the cluster may do everything, and the authority's key is nobody's.
    assert ("admin" in service.get("secrets", ())) == (
        service["command"] == ["serve", "join"] if "command" in service else False
    )
    assert not [one for one in WRITTEN["secrets"].values() if one["file"].endswith("ca.key")]


def test_a_server_of_each_kind_has_an_address_of_its_own():
    addresses = [
        one["networks"]["private"]["ipv4_address"] for one in SERVICES.values() if isinstance(one["networks"], dict)
    ]
    assert len(addresses) == len(set(addresses)) == 12
    for line in SERVICES["market"]["extra_hosts"]:
        name, _, address = line.partition(":")
        assert SERVICES[name]["networks"]["private"]["ipv4_address"] == address


def test_what_is_mounted_is_there():
    mounted = {path for one in SERVICES.values() for path in bound_files(one)}
    assert "./serve" in mounted
    assert [path for path in mounted if not (DOCKER / path).exists()] == []
    assert (DOCKER / "serve").stat().st_mode & stat.S_IXOTH
    shell = subprocess.run(["/bin/sh", "-n", DOCKER / "serve"], capture_output=True, text=True, check=False)
    assert (shell.returncode, shell.stderr) == (0, "")


@pytest.mark.parametrize(
    "role", sorted({one["command"][1] for one in SERVICES.values() if one.get("command", [""])[0] == "serve"})
)
def test_what_a_container_is_asked_to_serve_is_known(role: str):
    assert re.search(rf"^  {role}\)$", (DOCKER / "serve").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("slots", "code"), [(16_384, 0), (10_924, 1)])
def test_a_cluster_that_is_not_whole_is_no_success(tmp_path: Path, slots: int, code: int):
    """redis-cli ends with 0 where slots were left over, as by a run that was interrupted."""
    made = tmp_path / "made"
    client = f'case "$*" in *create*) touch {made};; *) [ -e {made} ] && echo cluster_slots_assigned:{slots};; esac'
    for name, script in {"timeout": 'shift; exec "$@"', "redis-cli": client, "getent": 'echo "10.0.0.1 $2"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\nexit 0\n")
        (tmp_path / name).chmod(0o755)
    search = f"{tmp_path}:{os.environ['PATH']}"
    serve = ["sh", str(DOCKER / "serve"), "join"]
    ended = subprocess.run(serve, env={"PATH": search}, capture_output=True, text=True, check=False, timeout=60)
    assert made.exists(), ended.stderr
    assert ended.returncode == code, ended.stderr
    assert ("begin anew" in ended.stderr) == bool(code)


@pytest.mark.parametrize("command", compose_commands(), ids=" ".join)
def test_compose_takes_the_file(command: list[str], tmp_path: Path):
    """Every release that is installed: they read the same file differently."""
    settings = {"GRIDSYNC_DIR": str(tmp_path), "GRIDSYNC_UID": "999", "GRIDSYNC_GID": "999"}
    chosen = [word for profile in PROFILES for word in ("--profile", profile)]
    taken = subprocess.run(
        [*command, "-f", FILE, *chosen, "config"],
        env={**os.environ, **settings}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert taken.returncode == 0, taken.stderr
    services = yaml.safe_load(taken.stdout)["services"]
    assert services.keys() == SERVICES.keys()
    for name, one in services.items():
        assert (one["read_only"], one["cap_drop"], one["user"]) == (True, ["ALL"], "999:999"), name
    refused = subprocess.run([*command, "-f", FILE, *chosen, "config"], capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "gridsync setup" in refused.stderr, "without a directory it says where to get one"
