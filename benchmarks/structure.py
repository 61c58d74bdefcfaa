"""Count what makes the project hard to read: ``python benchmarks/structure.py [--json FILE]``.

Links are not followed, so every file is counted once. It reads the files of a checkout only, so
``--root`` may name another one, for instance an older commit's.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.reporting import check, conclude, machine

PACKAGES = ("hqde_fl", "strategies", "clients", "simulations")
OPENINGS = ("What", "Who", "Whose", "Whom", "Where", "How", "Whether", "Which")
PUBLIC_FLOWER = {
    "flwr.app",
    "flwr.clientapp",
    "flwr.clientapp.mod",
    "flwr.clientapp.typing",
    "flwr.serverapp",
    "flwr.serverapp.strategy",
}
"""Modules of Flower that its documentation describes."""


def files(root: Path) -> Iterator[Path]:
    """Yield the Python files of the packages, links not followed."""
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            relative = path.relative_to(root)
            folders = (root.joinpath(*relative.parts[:n]) for n in range(1, len(relative.parts)))
            if not any(folder.is_symlink() for folder in folders):
                yield path


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Yield the docstrings of a module, its classes and functions, those without one left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def module_name(path: Path, root: Path) -> str:
    """Return the dotted name under which a file of the checkout ``root`` is imported."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    if parts[0] != "hqde_fl" and not (root / "hqde_fl" / parts[0]).is_symlink():
        return ".".join(parts)  # a checkout from before there was one namespace
    return ".".join(parts if parts[0] == "hqde_fl" else ["hqde_fl", *parts])


def imports(tree: ast.AST, name: str, known: set[str]) -> set[str]:
    """Return the modules in ``known`` that the module ``name`` imports, in its functions too."""
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                imported.add(whole if whole in known else node.module)
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    return imported & known - {name}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the sorted groups of modules that import each other, directly or through others.

    ``graph`` has for each module those that it imports.
    """
    reach = {}
    for start in graph:
        seen, waiting = set(), [start]
        while waiting:
            for following in graph.get(waiting.pop(), ()):
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)
        reach[start] = seen
    groups = {
        frozenset(other for other in reach[start] if start in reach.get(other, ()))
        for start in graph
        if start in reach[start]
    }
    return sorted(sorted(group) for group in groups)


def private_flower(tree: ast.Module) -> set[str]:
    """Return the modules of Flower that a module imports but that are not ``PUBLIC_FLOWER``."""
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        used |= {m for m in modules if m.split(".")[0] == "flwr" and m not in PUBLIC_FLOWER}
    return used


def constructor_arguments(root: Path) -> int:
    """Return the number of arguments of ``HQDEStrategy``, ``self`` not counted."""
    tree = ast.parse((root / "strategies" / "hqde.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == "HQDEStrategy":
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                    arguments = part.args
                    return len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]) - 1
    raise SystemExit("there is no HQDEStrategy.__init__ in strategies/hqde.py")


def main() -> int:
    """Print the counts, and the offenders where there are few; return 1 if a count is too high."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--names", action="store_true", help="name every offender")
    parser.add_argument("--json", type=Path, help="write the table and the checks to this file")
    parser.add_argument("--quick", action="store_true", help="the same: counting is quick")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files(root)}
    known = {module_name(path, root) for path in trees}
    texts = [(path, text) for path, tree in trees.items() for text in docstrings(tree)]
    riddles = [
        f"{path.relative_to(root)}: {text.splitlines()[0]}"
        for path, text in texts
        if re.match(rf"({'|'.join(OPENINGS)})\b", text)
    ]
    classes = defaultdict(list)
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(str(path.relative_to(root)))
    twice = [f"{name}: {', '.join(homes)}" for name, homes in classes.items() if len(homes) > 1]
    graph = {
        module_name(path, root): imports(tree, module_name(path, root), known)
        for path, tree in trees.items()
    }
    loops = [" <-> ".join(group) for group in circles(graph)]
    flower = [
        f"{path.relative_to(root)}: {', '.join(sorted(used))}"
        for path, tree in trees.items()
        if (used := private_flower(tree))
    ]
    rooms = [path.name for path in sorted((root / "simulations").glob("*.py"))]
    rooms = [name for name in rooms if name != "__init__.py"]
    lengths = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in trees)
    throwaway = sum(
        isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == "found"
        for tree in trees.values()
        for node in ast.walk(tree)
    )
    rows = [
        {
            "what": "modules at the root of simulations/",
            "bound": 4,
            "count": len(rooms),
            "names": rooms,
        },
        {
            "what": "arguments of HQDEStrategy",
            "bound": 8,
            "count": constructor_arguments(root),
            "names": [],
        },
        {"what": "import circles", "bound": 0, "count": len(loops), "names": loops},
        {
            "what": f"docstrings (of {len(texts)}) that open with {'/'.join(OPENINGS)}",
            "bound": 9,
            "count": len(riddles),
            "names": riddles,
        },
        {"what": "class names used twice", "bound": 0, "count": len(twice), "names": twice},
        {
            "what": "files that import undocumented names of Flower",
            "bound": 2,
            "count": len(flower),
            "names": flower,
        },
        {"what": "assignments to `found`", "count": throwaway, "names": []},
        {"what": "median lines of a file", "count": lengths[len(lengths) // 2], "names": []},
    ]
    for row in rows:
        print(f"{row['count']:>6}  {row['what']}")
        if arguments.names or 0 < len(row["names"]) <= 8:
            for name in row["names"]:
                print(f"          {name}")
    checks = [
        check(row["what"], row["count"], row["bound"], upper=True) for row in rows if "bound" in row
    ]
    return conclude(rows, checks, arguments.json, machine())


if __name__ == "__main__":
    sys.exit(main())
