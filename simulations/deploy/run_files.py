"""Files of a run's directory, served beside the SuperLink's control API and fetched over HTTPS.

The addresses begin with that of the control API, so a proxy that keeps nodes from it keeps them
from these files too, and a SuperLink with accounts asks for one. The answer to ``RUNS/RUN`` lists
the files of a run by name, with their sizes; ``RUNS/RUN/NAME`` is one file.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import ssl
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, final
from urllib.parse import quote

from hqde_fl.errors import RunError
from hqde_fl.simulations.deploy.registered_keys import ControlAddress
from hqde_fl.simulations.recording.run_ids import directory_of

RUNS = "/v1/control/hqde-fl/runs"
_LEFT_OUT = ("checkpoint",)
"""Folders of a run directory that are not served: they are for the SuperLink's host."""
_SECONDS = 60.0
_MAX_LISTING = 2**20
_MAX_FILES = 10_000
_NAME = re.compile(r"[\w][\w.+ -]*(/[\w][\w.+ -]*)*", re.ASCII)


def listing(directory: Path) -> dict[str, int]:
    """Return the regular files of a run directory by name, with their sizes in bytes.

    Links, hidden files and checkpoints are left out.
    """
    files = {}
    for folder, folders, names in os.walk(directory):
        hidden = [n for n in folders if n.startswith(".") or n in _LEFT_OUT]
        folders[:] = sorted(set(folders) - set(hidden))
        for path in (Path(folder, name) for name in sorted(names)):
            name = path.relative_to(directory).as_posix()
            if _NAME.fullmatch(name) and path.is_file() and not path.is_symlink():
                files[name] = path.stat().st_size
    return files


def serve_runs(app: Any, runs: Path) -> None:
    """Add the routes to the SuperLink's FastAPI ``app``; ``runs`` holds the run directories."""
    from fastapi import HTTPException
    from fastapi.responses import FileResponse

    def directory(run_id: str) -> Path:
        path = directory_of(runs, run_id)
        if path is None:
            raise HTTPException(404, f"no run {run_id} has a directory here")
        return path

    def list_run_files(run_id: str) -> dict[str, Any]:
        found = directory(run_id)
        return {"name": found.name, "files": listing(found)}

    def read_run_file(run_id: str, name: str) -> FileResponse:
        found = directory(run_id)
        if name not in listing(found):
            raise HTTPException(404, f"run {run_id} has no file of that name")
        return FileResponse(found / name, media_type="application/octet-stream")

    app.add_api_route(f"{RUNS}/{{run_id}}", list_run_files, methods=["GET"], response_model=None)
    path = f"{RUNS}/{{run_id}}/{{name:path}}"
    app.add_api_route(path, read_run_file, methods=["GET"], response_model=None)


@final
class RunFetcher:
    """Fetches the files of a run from a SuperLink's host.

    Parameters
    ----------
    control : ControlAddress
        The SuperLink.
    run_id : str
        Flower's id of the run.
    """

    def __init__(self, control: ControlAddress, run_id: str) -> None:
        self._control, self._run_id = control, run_id

    def fetch(self, out: Path, only: Collection[str] = ()) -> list[str]:
        """Write the run's files, or ``only`` some, into a directory and return their names.

        A file that was fetched in part is removed; others that are there already are replaced.

        Raises
        ------
        RunError
            If the SuperLink does not answer, has no such run, or a file cannot be written.
        """
        files = {name: size for name, size in self.listing().items() if not only or name in only}
        try:
            for name, size in files.items():
                self._fetch_file(name, size, out / name)
        except OSError as error:
            raise RunError(f"{out} cannot be written: {error.strerror}") from error
        return [*files]

    def update(self, out: Path, only: Collection[str]) -> None:
        """Bring files of a run that goes on up to date, in a directory that only this call writes.

        Files of lines (``.jsonl``) get what was appended to them since; others are fetched again.

        Raises
        ------
        RunError
            As ``fetch``.
        """
        try:
            for name, size in self.listing().items():
                target = out / name
                have = target.stat().st_size if target.exists() else 0
                if name not in only or (name.endswith(".jsonl") and have == size):
                    continue
                if name.endswith(".jsonl") and 0 < have < size:
                    self._append(name, have, target)
                else:
                    self._fetch_file(name, size, target)
        except OSError as error:
            raise RunError(f"{out} cannot be written: {error.strerror}") from error

    def _append(self, name: str, have: int, target: Path) -> None:
        """Append what a file has beyond ``have`` bytes."""
        connection, response = self._get(f"/{quote(name)}", {"Range": f"bytes={have}-"})
        try:
            if response.status != http.client.PARTIAL_CONTENT:
                raise RunError(f"{self._control.address} does not send parts of {name}")
            with target.open("ab") as file:
                shutil.copyfileobj(response, file, 2**20)
        except http.client.HTTPException as error:
            raise RunError(f"{name} broke off: {error!r}") from error
        finally:
            connection.close()

    def listing(self) -> Mapping[str, int]:
        """Return the names of the run's files with their sizes, or raise ``RunError``."""
        connection, response = self._get("")
        try:
            table = json.loads(response.read(_MAX_LISTING))
            files = {str(name): int(size) for name, size in table["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{self._control.address} gives no list of files: {error}") from error
        finally:
            connection.close()
        unsafe = [n for n in files if not _NAME.fullmatch(n) or ".." in PurePosixPath(n).parts]
        if unsafe or len(files) > _MAX_FILES:
            raise RunError(f"{self._control.address} lists files that cannot be written here")
        return files

    def _fetch_file(self, name: str, size: int, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        connection, response = self._get(f"/{quote(name)}")
        try:
            with part.open("wb") as file:
                shutil.copyfileobj(response, file, 2**20)
            # rounds may have been added while the run goes on, but nothing is ever cut off
            if (found := part.stat().st_size) < size:
                raise RunError(f"{name} broke off: {found} of {size} bytes")
            part.replace(target)
        except http.client.HTTPException as error:
            raise RunError(f"{name} broke off: {error!r}") from error
        finally:
            connection.close()
            part.unlink(missing_ok=True)

    def _get(
        self, path: str, headers: Mapping[str, str] | None = None
    ) -> tuple[http.client.HTTPSConnection, http.client.HTTPResponse]:
        """Return the open connection and the answer to a request, or raise ``RunError``."""
        try:
            context = ssl.create_default_context(cafile=str(self._control.root))
            connection = http.client.HTTPSConnection(
                self._control.address, context=context, timeout=_SECONDS
            )
            address = f"{RUNS}/{quote(self._run_id, safe='')}{path}"
            connection.request("GET", address, headers=dict(headers or {}))
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise RunError(f"{self._control.address} does not answer: {error}") from error
        if response.status in (http.client.OK, http.client.PARTIAL_CONTENT):
            return connection, response
        connection.close()
        if response.status == http.client.NOT_FOUND:
            raise RunError(
                f"{self._control.address} has no directory of run {self._run_id}: its SuperLink "
                "must run as the unit of `nodes init` does, and the run be one of `hqde-fl run`"
            )
        raise RunError(
            f"{self._control.address} refused to send run {self._run_id}: "
            f"{response.status} {response.reason}"
        )
