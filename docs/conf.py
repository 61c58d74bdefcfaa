"""The documentation site: ``make docs`` builds it into ``site``, and works without a network.

Sphinx with furo and MyST: Material for MkDocs is at the end of its support, and its successor
Zensical has no reference from docstrings yet. The pages are plain Markdown that can be read without
the site.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

project = "hqde-fl"
author = copyright = "the hqde-fl developers"
_version = re.search(r'__version__ = "(.*)"', (ROOT / "hqde_fl" / "__init__.py").read_text())
assert _version is not None
release = version = _version[1]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "site"]
nitpicky = False

html_theme = "furo"
html_title = f"hqde-fl {release}"
html_static_path: list[str] = []
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
suppress_warnings = ["myst.xref_ambiguous"]

autodoc_typehints = "none"  # docstrings state the types, with shapes and units
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = False
napoleon_use_rtype = False

DOCUMENTS = {
    "README.md": "readme",
    "SECURITY.md": "security",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "LICENSE": "licence",
}
"""Documents at the root of the repository -> their pages in ``project/``."""

GROUPS = {
    "rules": "Rules",
    "strategies": "Strategy",
    "clients": "Clients",
    "codec": "Codecs",
    "selection": "Selection",
    "privacy": "Privacy",
    "prediction": "Prediction",
    "distributed": "Distribution",
    "monitor": "Monitor",
    "simulations": "Simulation",
    "errors": "Errors",
}
"""Package -> heading of the Python reference, in its order."""


def fill_in(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the root's documents and the Python reference into their pages; turn links to them."""
    folder, _, name = page.rpartition("/")
    if page == "api":
        source[0] = source[0] + python_reference()
    by_page = {target: document for document, target in DOCUMENTS.items()}
    if folder == "project" and name in by_page:
        text = (ROOT / by_page[name]).read_text()
        if "." not in by_page[name]:
            text = f"# {by_page[name].capitalize()}\n\n```text\n{text}\n```\n"
        text = text.replace("](docs/", "](../").replace("](experiments/", "](../../experiments/")
        source[0] = re.sub(r"\]\((?=[A-Z]+(\.md)?[#)])", "](../../", text)
    up = "../" * page.count("/")
    for document, target in DOCUMENTS.items():
        link = rf"\]\((?:\.\./)+{re.escape(document)}(#[^)]*)?\)"
        source[0] = re.sub(link, rf"]({up}project/{target}.md\1)", source[0])


def python_reference() -> str:
    """Return the reference of all public names, by package."""
    import hqde_fl

    by_group: dict[str, list[str]] = {group: [] for group in GROUPS}
    others: list[str] = []
    for name in hqde_fl.__all__:
        value = getattr(hqde_fl, name)
        home = getattr(value, "__module__", "") or ""
        group = home.removeprefix("hqde_fl.").partition(".")[0]
        kind = "class" if isinstance(value, type) else "function" if callable(value) else ""
        if kind:
            by_group.get(group, others).append(f".. auto{kind}:: hqde_fl.{name}")
    parts = []
    for group, heading in {**GROUPS, "": "Other names"}.items():
        if names := by_group.get(group, others):
            listed = "\n\n".join(sorted(names, key=str.lower))
            parts.append(f"## {heading}\n\n```{{eval-rst}}\n{listed}\n```\n")
    return "\n".join(parts)


def skip_member(
    app: Sphinx, kind: str, name: str, value: object, skip: bool, options: object
) -> bool | None:
    """Leave out members that are functions of another library, as a default is."""
    home = getattr(value, "__module__", None) or ""
    return True if callable(value) and not home.startswith("hqde_fl") else None


def setup(app: Sphinx) -> None:
    """Register the hooks."""
    app.connect("source-read", fill_in)
    app.connect("autodoc-skip-member", skip_member)
