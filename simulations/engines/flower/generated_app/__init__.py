"""The package of a generated Flower App, which sets the import path before it imports hqde-fl.

Then it adopts torch's process-wide settings of the process that started the run.

``app_writer`` copies this folder into the app, and adds the two files that it reads:
``import_path.py`` and ``settings.json``. It cannot be imported from here.
"""

import json
from pathlib import Path

from .import_path import adopt_path  # type: ignore[import-not-found]

_HERE = Path(__file__).parent
_SETTINGS = json.loads((_HERE / "settings.json").read_text(encoding="utf-8"))
if "path" in _SETTINGS:
    adopt_path(_SETTINGS["path"])  # first: a module of the user's own might hide one of hqde-fl

from hqde_fl import own_files  # noqa: E402
from hqde_fl.simulations.engines.torch_settings import TorchSettings  # noqa: E402
from hqde_fl.simulations.experiment import own_modules  # noqa: E402

if "path" in _SETTINGS:
    own_modules.add_folders(_SETTINGS["folders"])
else:
    own_files.carried |= {name: str(_HERE / to) for name, to in _SETTINGS["carried-files"].items()}
    own_modules.add_folders(_HERE / folder for folder in _SETTINGS["carried-folders"])
TorchSettings(**_SETTINGS["torch"]).adopt()
