"""Units, container image, compose file and Kubernetes manifests."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from hqde_fl.simulations.deploy.units import node_unit, superlink_unit

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
UNITS = {
    "hqde-fl-superlink.service": superlink_unit(9092, "0.0.0.0"),
    "hqde-fl-supernode.service": node_unit("fl.example.org:9092", "clinic"),
}


@pytest.mark.parametrize("name", UNITS)
def test_units_are_hardened(name: str, tmp_path: Path) -> None:
    for setting in ("UMask=0077", "NoNewPrivileges=yes", "ProtectSystem=strict"):
        assert f"\n{setting}\n" in UNITS[name]
    if (program := shutil.which("systemd-analyze")) is None:
        return
    path = tmp_path / name
    path.write_text(UNITS[name])
    command = [program, "security", "--offline=true", "--threshold=40", "--no-pager", str(path)]
    rated = subprocess.run(command, capture_output=True, text=True, check=False)
    assert rated.returncode == 0, rated.stdout[-2000:]


@pytest.mark.parametrize("name", ["requirements.txt", "build-requirements.txt"])
def test_every_locked_package_has_a_version_and_hashes(name: str) -> None:
    text = (DEPLOY / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines
    for line in lines:
        assert re.match(r"[A-Za-z0-9._-]+(\[[^\]]*\])?==\S+ .*--hash=sha256:[0-9a-f]{64}", line)


def test_the_lock_agrees_with_the_constraints() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    locked = dict(
        re.findall(r"^([\w.-]+)==(\S+) ", (DEPLOY / "requirements.txt").read_text(), re.M)
    )
    assert locked["flwr"] == pins["flwr"]
    assert locked["torch"] == f"{pins['torch']}+cpu"
    for name, version in locked.items():
        if name != "torch" and name in pins:
            assert version == pins[name], name


def test_the_image_installs_by_hash_and_drops_root() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    installs = [line for line in lines if "pip install" in line]
    assert len(installs) == 3
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)
    assert any(re.fullmatch(r"USER \d+", line) for line in lines)


def containers() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    found = []
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"] == "StatefulSet":
                pod = document["spec"]["template"]["spec"]
                found += [(path.stem, pod, container) for container in pod["containers"]]
    return found


def test_pods_have_no_rights() -> None:
    found = containers()
    assert [name for name, _, _ in found] == ["site", "superlink"]
    for _, pod, container in found:
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]} | {"state"}


def test_compose_and_kubernetes_start_the_same_programs() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name, _, container in containers():
        service = services[name]
        assert service["entrypoint"] == container["command"]
        options = [argument.partition("=")[0] for argument in container["args"]]
        assert [argument.partition("=")[0] for argument in service["command"]] == options
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
