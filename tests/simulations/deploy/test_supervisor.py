"""The supervisor registers only keys that the SuperLink does not know."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hqde_fl.simulations.deploy import supervisor
from hqde_fl.simulations.deploy.federation import FederationDirectory
from hqde_fl.simulations.deploy.registered_keys import public_key
from hqde_fl.simulations.engines.flower.superlink import SuperLink


def test_keys_that_an_interrupted_start_registered_are_not_registered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = FederationDirectory.create(tmp_path / "fed", 2)
    there = {public_key(federation.superlink / "node-0.pub"): 7}
    asked = []

    def registering(link: SuperLink, made: FederationDirectory, name: str) -> subprocess.Popen[str]:
        asked.append(name)
        say = f"print({json.dumps({'node-id': '8'})!r})"
        return subprocess.Popen([sys.executable, "-c", say], stdout=subprocess.PIPE, text=True)

    monkeypatch.setattr(supervisor, "registered", lambda address, root: there)
    monkeypatch.setattr(supervisor, "_registering", registering)
    ids = supervisor.register(federation, federation.nodes, "127.0.0.1:1")
    assert ids == {"node-0": 7, "node-1": 8}
    assert asked == ["node-1"]
