"""Describe a part from its source, without importing it: its module may take seconds to import."""

from __future__ import annotations

import ast
import gc
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from hqde_fl.errors import ConfigError

_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "pattern": "matches"}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a part, or a key of a table.

    Parameters
    ----------
    name : str
        Its name in Python.
    type : str
        Its annotation.
    default : str or None
        Its default as Python source; None if it is required.
    bounds : str
        Bounds that the annotation states: ``>= 1``.
    meaning : str
        What the docstring of its class says about it.
    """

    name: str
    type: str
    default: str | None
    bounds: str = ""
    meaning: str = ""

    @property
    def key(self) -> str:
        """Return its name in a file."""
        return self.name.replace("_", "-")


@dataclass(frozen=True)
class Description:
    """A class or function, as its source describes it.

    Parameters
    ----------
    docstring : str
        Its docstring.
    parameters : Mapping[str, Parameter]
        Name -> parameter, those of base classes first.
    module : str
        The docstring of its module.
    file : Path
        Its file.
    """

    docstring: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    module: str = ""
    file: Path = Path()

    @property
    def summary(self) -> str:
        """Return the first line of the docstring."""
        return self.docstring.strip().partition("\n")[0]

    @property
    def text(self) -> str:
        """Return the docstring without its sections (parameters, what is raised, ...)."""
        return _without_sections(self.docstring)


def describe(reference: str, *, meanings: bool = True) -> Description:
    """Return the description of a class or function ``module:name``, or ``path/to/file.py:name``.

    Parameters
    ----------
    reference : str
        The class or function.
    meanings : bool
        Read what the docstrings say about each parameter, too.

    Raises
    ------
    ConfigError
        If there is no source of such a class or function.
    """
    module, _, name = reference.rpartition(":")
    place = _definition(module, name.rpartition(".")[2])
    if place is None:
        raise ConfigError(f"there is no class or function {reference!r}")
    module, node = place
    source = _source(module)
    assert source is not None
    tree, file = source
    docstring = ast.get_docstring(node) or ""
    if isinstance(node, ast.ClassDef):
        parameters = _parameters(module, node, meanings)
    else:
        parameters = _arguments(node)
    return Description(docstring, parameters, ast.get_docstring(tree) or "", file)


def _parameters(
    module: str, node: ast.ClassDef, with_meanings: bool = True
) -> dict[str, Parameter]:
    parameters: dict[str, Parameter] = {}
    for base in reversed(node.bases):
        if isinstance(base, ast.Name) and (place := _class(module, base.id)):
            parameters |= _parameters(*place, with_meanings)
    if not _takes_fields(node):
        return parameters
    meanings = parameter_meanings(ast.get_docstring(node) or "") if with_meanings else {}
    for entry in node.body:
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name):
            found = _parameter(module, entry, entry.target.id)
            if found is not None:
                meaning = meanings.pop(found.name, "")
                parameters[found.name] = replace(found, meaning=meaning)
    for name, meaning in meanings.items():
        if name in parameters:
            parameters[name] = replace(parameters[name], meaning=meaning)
    return parameters


def _arguments(node: ast.FunctionDef) -> dict[str, Parameter]:
    """Return the parameters of a function that can be given by name."""
    meanings = parameter_meanings(ast.get_docstring(node) or "")
    places = [*node.args.posonlyargs, *node.args.args]
    defaults: list[ast.expr | None] = [None] * (len(places) - len(node.args.defaults))
    defaults += node.args.defaults
    pairs = [*zip(places, defaults, strict=True)]
    pairs += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return {
        place.arg: Parameter(
            place.arg,
            ast.unparse(place.annotation) if place.annotation else "",
            None if default is None else ast.unparse(default),
            meaning=meanings.get(place.arg, ""),
        )
        for place, default in pairs
        if place not in node.args.posonlyargs
    }


def _takes_fields(node: ast.ClassDef) -> bool:
    """Return True for a dataclass, and for a section of a file."""
    sections = [base.id for base in node.bases if isinstance(base, ast.Name)]
    return "Section" in sections or any(
        "dataclass" in ast.unparse(decorator) for decorator in node.decorator_list
    )


def _parameter(module: str, entry: ast.AnnAssign, name: str) -> Parameter | None:
    annotation = ast.unparse(entry.annotation)
    if annotation.startswith("ClassVar") or name.startswith("_"):
        return None
    default, bounds = entry.value, ""
    if isinstance(default, ast.Call) and ast.unparse(default.func) in ("field", "Field"):
        keywords = {k.arg: k.value for k in default.keywords}
        given = keywords.get("init")
        if isinstance(given, ast.Constant) and given.value is False:
            return None
        bounds = ", ".join(
            f"{sign} {ast.literal_eval(keywords[key])}"
            for key, sign in _BOUNDS.items()
            if key in keywords
        )
        factory = keywords.get("default_factory")
        default = default.args[0] if default.args else keywords.get("default")
        if isinstance(factory, ast.Lambda):
            default = factory.body
        elif factory is not None:
            default = ast.Call(factory, [], [])
    text = None if default is None else ast.unparse(_constant(module, default))
    if isinstance(entry.annotation, ast.Name):
        annotation = _alias(module, annotation)
    return Parameter(name, annotation, text, bounds)


def _constant(module: str, value: ast.expr) -> ast.expr:
    """Return the value that a name, or a parameter of a class, stands for; others unchanged."""
    if isinstance(value, ast.Name):
        return _assigned(module, value.id) or value
    if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name):
        place = _class(module, value.value.id)
        found = None if place is None else _parameters(*place).get(value.attr)
        if found is not None and found.default is not None:
            return ast.parse(found.default, mode="eval").body
    return value


def _alias(module: str, name: str) -> str:
    """Return the annotation that a name stands for if it is a ``Literal``; others unchanged."""
    value = _assigned(module, name)
    text = "" if value is None else ast.unparse(value)
    return text if text.startswith("Literal") else name


def parameter_meanings(docstring: str) -> dict[str, str]:
    """Return parameter -> meaning, from "Parameters" and "Attributes" of a NumPy docstring.

    Parameters
    ----------
    docstring : str
        The docstring, without the indentation of the code.
    """
    lines = docstring.splitlines() or [""]
    meanings: dict[str, list[str]] = {}
    names: list[str] = []
    reads = False
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if re.fullmatch("-{3,}", following):  # the name of a section
            reads, names = line in ("Parameters", "Attributes"), []
        elif reads and line[:1].strip() and not re.fullmatch("-{3,}", line):
            names = [name.strip("* ") for name in line.partition(" : ")[0].split(",")]
            meanings |= {name: [] for name in names}
        else:
            for name in names:
                meanings[name].append(line.strip())
    return {name: " ".join(filter(None, text)) for name, text in meanings.items()}


def _without_sections(docstring: str) -> str:
    lines = docstring.splitlines()
    for number, line in enumerate(lines):
        if number and re.fullmatch("-{3,}", line):
            lines = lines[: number - 1]
            break
    return "\n".join(lines).strip()


def _definition(module: str, name: str) -> tuple[str, ast.ClassDef | ast.FunctionDef] | None:
    """Return (module, node) of a class or function that a module defines or imports; or None."""
    for entry in _body(module):
        if isinstance(entry, ast.ClassDef | ast.FunctionDef) and entry.name == name:
            return module, entry
    origin = _imported(module, name)
    return None if origin is None else _definition(*origin)


def _class(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """Return (module, node) of a class that a module defines or imports from another; or None."""
    place = _definition(module, name)
    return (place[0], place[1]) if place and isinstance(place[1], ast.ClassDef) else None


def _assigned(module: str, name: str) -> ast.expr | None:
    """Return the value that a module, or the one it imports the name from, assigns to a name."""
    for entry in _body(module):
        if isinstance(entry, ast.Assign) and name in map(ast.unparse, entry.targets):
            return entry.value
        if isinstance(entry, ast.AnnAssign) and ast.unparse(entry.target) == name:
            return entry.value
    origin = _imported(module, name)
    return None if origin is None else _assigned(*origin)


def _imported(module: str, name: str) -> tuple[str, str] | None:
    """Return (module, name) of what ``from ... import ...`` gives a name to, if a module has it."""
    for entry in _body(module):
        if isinstance(entry, ast.ImportFrom) and entry.module and not entry.level:
            for alias in entry.names:
                if (alias.asname or alias.name) == name and _source(entry.module):
                    return entry.module, alias.name
    return None


def _body(module: str) -> list[ast.stmt]:
    source = _source(module)
    return [] if source is None else source[0].body


@cache
def _source(module: str) -> tuple[ast.Module, Path] | None:
    """Return the syntax tree and the file of a module; None if it has no source here."""
    file = Path(module) if module.endswith(".py") else _file(module)
    if file is None:
        return None
    collects = gc.isenabled()
    gc.disable()  # which halves the time: a tree has many objects, and none of them is garbage
    try:
        return ast.parse(file.read_text(encoding="utf-8")), file
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None
    finally:
        if collects:
            gc.enable()


def _file(module: str) -> Path | None:
    """Return the file of a module, without importing it or the packages around it."""
    top, *rest = module.split(".")
    if top in sys.modules:
        folders = list(getattr(sys.modules[top], "__path__", ()))
        origin = getattr(sys.modules[top], "__file__", None)
    else:
        try:
            spec = find_spec(top)
        except (ImportError, ValueError):
            return None
        if spec is None:
            return None
        folders, origin = list(spec.submodule_search_locations or ()), spec.origin
    if not rest:
        return Path(origin) if origin and origin.endswith(".py") else None
    relative = Path(*rest)
    for folder in map(Path, folders):
        for file in (folder / relative / "__init__.py", folder / f"{relative}.py"):
            if file.is_file():
                return file
    return None
