"""Keys that a SuperLink knows are not registered again, and revoked ones are removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from hqde_fl.errors import RunError
from hqde_fl.simulations.deploy import membership
from hqde_fl.simulations.deploy.federation import FederationDirectory
from hqde_fl.simulations.deploy.registered_keys import ControlAddress, public_key, synchronise


class Keys:
    """The keys of a SuperLink, which refuses one that is registered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, known: dict[bytes, int]) -> None:
        self.known, self.calls = known, list[str]()
        self.unseen: dict[bytes, int] = {}
        for name in ("registered", "register", "unregister"):
            monkeypatch.setattr(ControlAddress, name, getattr(self, name))

    def registered(self) -> dict[bytes, int]:
        return dict(self.known)

    def register(self, key: bytes, name: str) -> int:
        self.calls.append(name)
        if key in self.unseen:  # another process has registered it in the meantime
            self.known |= self.unseen
            raise RunError("in use")
        self.known[key] = 10 + len(self.calls)
        return self.known[key]

    def unregister(self, node_id: int) -> None:
        self.calls.append(f"-{node_id}")


@pytest.fixture
def federation(tmp_path: Path) -> FederationDirectory:
    return FederationDirectory.create(tmp_path / "fed", 2)


CONTROL = ControlAddress("127.0.0.1:1", Path("ca.crt"))


def test_keys_that_an_interrupted_start_registered_are_not_registered_again(
    federation: FederationDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(monkeypatch, {public_key(federation.superlink / "node-0.pub"): 7})
    assert synchronise(federation, CONTROL, federation.names) == {"node-0": 7, "node-1": 11}
    assert keys.calls == ["node-1"]


def test_a_key_that_another_process_registers_first_is_found(
    federation: FederationDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(monkeypatch, {})
    keys.unseen = {public_key(federation.superlink / "node-1.pub"): 5}
    assert synchronise(federation, CONTROL, ["node-1"]) == {"node-1": 5}


def test_a_refused_key_is_an_error(
    federation: FederationDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    Keys(monkeypatch, {})

    def refuse(control: ControlAddress, key: bytes, name: str) -> int:
        raise RunError("refused")

    monkeypatch.setattr(ControlAddress, "register", refuse)
    with pytest.raises(RunError, match="refused"):
        synchronise(federation, CONTROL, federation.names)


def test_revoked_keys_are_removed_once(
    federation: FederationDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    revoked = public_key(federation.superlink / "node-0.pub")
    keys = Keys(monkeypatch, {revoked: 7})
    federation = membership.revoke(federation, "node-0")
    synchronise(federation, CONTROL, [])
    assert keys.calls == ["-7"]
    del keys.known[revoked]
    synchronise(federation, CONTROL, [])
    assert keys.calls == ["-7"]
