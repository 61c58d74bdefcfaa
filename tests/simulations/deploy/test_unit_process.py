"""A unit's program runs without systemd, with the same arguments and other places."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.deploy import membership
from hqde_fl.simulations.deploy.federation import FederationDirectory
from hqde_fl.simulations.deploy.unit_process import unit_process


@pytest.fixture
def federation(tmp_path: Path) -> FederationDirectory:
    made = FederationDirectory.create(tmp_path / "fed", 0, ["127.0.0.1"])
    return membership.add(made, "clinic")


def test_a_site_gets_its_folders_and_its_settings(
    federation: FederationDirectory, tmp_path: Path
) -> None:
    folder, state = federation.path / "clinic", tmp_path / "state"
    (folder / "site.env").write_text("HQDE_FL_DATA=/srv/images\nHQDE_FL_LOG=json\n")
    command, environment = unit_process(folder, state)
    assert command[:4] == [
        *(sys.executable, "-P", "-m", "hqde_fl.simulations.deploy.supernode_program")
    ]
    options = dict(zip(command[4::2], command[5::2], strict=True))
    assert options == {
        "--superlink": "127.0.0.1:9092",
        "--root-certificates": f"{folder}/ca.crt",
        "--auth-supernode-private-key": f"{folder}/node.key",
        "--host": "127.0.0.1",
        "--port": "0",
        "--node-config": f"cache-dir='{state}/entries' data-path='/srv/images' "
        f"node-folder='{folder}'",
    }
    assert environment["FLWR_HOME"] == f"{state}/flwr"
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["HQDE_FL_LOG"] == "json"
    assert environment["PATH"].startswith(os.path.dirname(sys.executable))
    assert environment.keys() >= os.environ.keys()


def test_a_superlink_gets_its_database(federation: FederationDirectory, tmp_path: Path) -> None:
    command, _ = unit_process(federation.superlink, tmp_path)
    assert command[3] == "hqde_fl.simulations.deploy.superlink_program"
    assert command[command.index("--database") + 1] == f"{tmp_path}/superlink.db"
    assert command[command.index("--ssl-keyfile") + 1] == f"{federation.superlink}/server.key"


def test_the_program_takes_the_place_of_the_command(
    federation: FederationDirectory, tmp_path: Path
) -> None:
    folder, state = federation.path / "clinic", tmp_path / "state"
    unit = folder / "hqde-fl-supernode.service"
    (tmp_path / "program.py").write_text("import os; print(os.getcwd()); open('x', 'w')")
    begin = f"ExecStart=/opt/hqde-fl/venv/bin/python {tmp_path}/program.py"
    lines = [begin if ln.startswith("ExecStart=") else ln for ln in unit.read_text().splitlines()]
    unit.write_text("\n".join(lines))
    code = (
        "import sys; from pathlib import Path;"
        "from hqde_fl.simulations.deploy.unit_process import become_unit;"
        "become_unit(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder, state], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{state}\n"
    assert stat.S_IMODE((state / "x").stat().st_mode) == 0o600


def test_a_folder_without_a_unit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs one systemd unit \(\*.service\), found 0"):
        unit_process(tmp_path, tmp_path)
