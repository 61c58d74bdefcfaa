"""Draw the pictures of the README: ``python docs/pictures/make.py``, a minute on two cores.

``heat-map.png`` is the figure that a sweep of ``heat-map.toml`` leaves, ``top.svg`` is what
`hqde-fl top` shows of a run on a terminal.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME

from hqde_fl.simulations.console.top_view import Room, view
from hqde_fl.simulations.recording.live_run import LiveRun

FOLDER = Path(__file__).parent
HQDE_FL = [sys.executable, "-m", "hqde_fl.simulations.console.entry"]
WIDTH, HEIGHT = 100, 28
TOP_ROUND = 6
"""Round after which the picture of ``top`` is taken."""

LONG_RUN = """
name = "forty-clients"
rounds = 12
seed = 7

[task]
name = "digits"

[clients]
count = 40
epochs = 60

[strategy]
rule = "byzantine-filter"

[[faults]]
name = "sign-flip"
count = 8

[[faults]]
name = "crash"
count = 2
"""


def heat_map(folder: Path) -> None:
    """Run the sweep, and keep its heat map."""
    out = folder / "sweep"
    options = [str(FOLDER / "heat-map.toml"), "--out", str(out), "--jobs", "2"]
    subprocess.run([*HQDE_FL, "sweep", *options], check=True)
    (figure,) = (out / "figures").glob("rule-by-attack*.png")
    (FOLDER / "heat-map.png").write_bytes(figure.read_bytes())


def save(console: Console, name: str, title: str) -> None:
    """Write what a console recorded, without the font that the page would fetch from a server."""
    svg = console.export_svg(title=title, theme=DEFAULT_TERMINAL_THEME)
    svg = re.sub(r"\s*@font-face \{.*?\}\n", "\n", svg, flags=re.DOTALL)
    svg = "\n".join(line.rstrip() for line in svg.splitlines())
    (FOLDER / name).write_text(svg.replace("Fira Code", "Menlo, Consolas, DejaVu Sans Mono") + "\n")


def recorder() -> Console:
    """Return a terminal whose output is kept."""
    return Console(file=io.StringIO(), width=WIDTH, record=True, force_terminal=True)


def top(folder: Path) -> None:
    """Begin a run, and take what ``hqde-fl top`` shows of it in its middle."""
    (folder / "run.toml").write_text(LONG_RUN)
    out = folder / "run"
    command = [*HQDE_FL, "run", str(folder / "run.toml"), "--out", str(out)]
    with subprocess.Popen(command) as process:
        run = LiveRun(out)
        while process.poll() is None:
            run.refresh()
            if run.round >= TOP_ROUND and len(list(run.in_flight(time.time()))) > 5:
                break
            time.sleep(0.05)
        console = recorder()
        console.print(view(run, time.time(), Room(WIDTH, HEIGHT)))
    save(console, "top.svg", "hqde-fl top runs/forty-clients")


def main() -> None:
    """Draw all pictures."""
    with tempfile.TemporaryDirectory() as folder:
        top(Path(folder))
        heat_map(Path(folder))


if __name__ == "__main__":
    main()
