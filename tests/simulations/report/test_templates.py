import io
import zipfile
from importlib import resources
from pathlib import Path

from flwr.cli.build import build_fab_from_files

ROOT = Path(__file__).parents[3]
TEMPLATES = resources.files("hqde_fl.simulations.report") / "templates"
ROOMS = ("hqde_fl", "strategies", "clients", "simulations", "experiments")


def template_names(folder, prefix=""):
    """Return the paths of all files in the templates' folder."""
    for entry in folder.iterdir():
        path = f"{prefix}{entry.name}"
        yield from template_names(entry, f"{path}/") if entry.is_dir() else (path,)


def test_a_flower_app_bundle_carries_every_template():
    names = set(template_names(TEMPLATES))
    assert {"run.html.md", "sweep.html.md", "style.css.md", "sweep/ranking.html.md"} <= names
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file()]
    paths += [ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE")]
    fab, _ = build_fab_from_files({path.relative_to(ROOT).as_posix(): path for path in paths})
    with zipfile.ZipFile(io.BytesIO(fab)) as bundle:
        carried = set(bundle.namelist())
    assert {f"simulations/report/templates/{name}" for name in names} <= carried


def test_the_style_sheet_has_a_colour_for_everything_that_uses_one():
    from hqde_fl.simulations.report.charts import PAGE_COLOURS
    from hqde_fl.simulations.report.outcome_grid import SHOWN_OUTCOMES

    style = (TEMPLATES / "style.css.md").read_text()
    for name in [*SHOWN_OUTCOMES, *(f"c{index}" for index in range(PAGE_COLOURS))]:
        assert style.count(f"--{name}: #") == 2, name  # in light and in dark mode
