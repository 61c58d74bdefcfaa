"""The package of a generated Flower App, which sets the import path before it imports hqde-fl.

Then it adopts torch's process-wide settings of the process that started the run.

``app_writer`` copies this folder into the app, and adds the two files that it reads:
``import_path.py`` and ``settings.json``. It cannot be imported from here.
"""

import json
from pathlib import Path

from .import_path import adopt_path  # type: ignore[import-not-found]

_SETTINGS = json.loads((Path(__file__).parent / "settings.json").read_text(encoding="utf-8"))
adopt_path(_SETTINGS["path"])  # first, as a module of the user's own might hide one of hqde-fl

from hqde_fl.simulations.engines.torch_settings import TorchSettings  # noqa: E402
from hqde_fl.simulations.experiment import own_modules  # noqa: E402

own_modules.add_folders(_SETTINGS["folders"])
TorchSettings(**_SETTINGS["torch"]).adopt()
