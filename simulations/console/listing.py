"""List what an experiment's file can name, and explain one name; nothing is imported for it."""

from __future__ import annotations

import ast
import json
import re
import textwrap
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.text import Text

from hqde_fl.errors import UnknownNameError
from hqde_fl.simulations.console.kinds import KINDS, Kind, keys
from hqde_fl.simulations.console.part_source import Description, Parameter, describe

KEYS = "keys"
"""Name of the list of all keys of a file."""

MIN_WIDTH = 30
"""Least number of characters to which the text beside a name is wrapped."""

Entry = tuple[str, str]
"""The meaning of a name, and its parameters."""


def show_list(console: Console, what: str | None = None) -> None:
    """Print all that can be named, or one kind of it.

    Raises
    ------
    UnknownNameError
        If there is no such kind.
    """
    if what not in (None, KEYS, *KINDS):
        raise UnknownNameError("kind of thing to list", str(what), [*KINDS, KEYS])
    for kind in KINDS.values():
        if what in (None, kind.name):
            rows = [(name, _entry(found)) for name, found in kind.described(meanings=False)]
            if not rows:
                rows = [("", (f"none built in: a class of your own ({kind.keys[0]})", ""))]
            _print_table(console, kind.name, rows)
    if what in (None, KEYS):
        rows = [(key, _key_entry(found)) for key, found in keys().items()]
        _print_table(console, KEYS, rows)


def explain(name: str) -> str:
    """Return a text that explains a name: a part, a key of a file, or a class of the user's own.

    Raises
    ------
    UnknownNameError
        If nothing has this name; the message suggests a near one.
    """
    if ":" in name:
        return _explain_part(name, None, describe(name))
    texts = [
        _explain_part(name, kind, kind.describe(name)) for kind in KINDS.values() if name in [*kind]
    ]
    texts += [_explain_key(key, found) for key, found in keys().items() if _is_key(name, key)]
    if name in KINDS:
        texts.append(f"{name}: {', '.join(KINDS[name])}\n")
    if not texts:
        known = [*(entry for kind in KINDS.values() for entry in kind), *keys(), *KINDS]
        leaves = [key.rpartition(".")[2] for key in keys()]
        raise UnknownNameError("name", name, {*known, *leaves})
    return "\n".join(texts)


def toml_text(source: str | None) -> str:
    """Return a default, given as Python source, as a file would have it."""
    if source is None:
        return ""
    try:
        value = ast.literal_eval(source)
    except ValueError:
        return _number_text(source)
    if value is None:
        return ""
    if isinstance(value, dict):
        entries = (f"{key} = {toml_text(repr(entry))}" for key, entry in value.items())
        return "{ " + ", ".join(entries) + " }" if value else "{}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(toml_text(repr(entry)) for entry in value)}]"
    return json.dumps(value) if isinstance(value, bool | str) else f"{value:g}"


def _number_text(source: str) -> str:
    """Return the value of a quotient of numbers; other source, such as a call, unchanged."""
    quotient = re.fullmatch(r"(\d+) / (\d+)", source)
    return f"{int(quotient[1]) / int(quotient[2]):.4g}" if quotient else source.removesuffix("()")


def type_text(annotation: str) -> str:
    """Return an annotation in the words of a file."""
    words = {
        "str": "string",
        "int": "integer",
        "float": "number",
        "bool": "true or false",
        "Table": "table",
        "Component": "name or table",
        "CodecComponent": "name or table",
        "OptionalComponent": 'name, table or "none"',
        "OptionalTable": 'table or "none"',
        "dict[str, bool]": "table",
        "tuple[Component, ...]": "list of names or tables",
        "tuple[Table, ...]": "list of tables",
        "tuple[str, ...]": "list of strings",
        "tuple[int, ...]": "list of integers",
        "tuple[float, ...]": "list of numbers",
        "tuple[Aggregator, ...]": "list of rules",
        "Aggregator": "rule",
        "Rule": "rule",
        "Codec": "codec",
    }
    annotation = annotation.removesuffix(" | None")
    if choices := re.fullmatch(r"Literal\[(.*)\]", annotation):
        return " or ".join(toml_text(choice) for choice in choices[1].split(", "))
    if choices := re.fullmatch(r"(\w+) \| Literal\[(.*)\]", annotation):
        return f"{words[choices[1]]} or {toml_text(choices[2])}"
    return words.get(annotation, annotation)


def usage(name: str, kind: Kind, parameters: Iterable[Parameter]) -> str:
    """Return an example of a file's table that names a part, with its required parameters."""
    needed = [parameter for parameter in parameters if parameter.default is None]
    values = [f"{parameter.key} = {_sample(parameter)}" for parameter in needed]
    pairs = [f"name = {json.dumps(name)}", *values]
    if "[[" in kind.example or kind.name == "tasks":
        return kind.example.replace("{}", "\n".join(pairs))
    short = json.dumps(name)
    return kind.example.replace("{}", f"{{ {', '.join(pairs)} }}" if values else short)


def _sample(parameter: Parameter) -> str:
    """Return a value for a required parameter in an example."""
    samples = {"int": "1", "float": "1.0", "bool": "true", "str": '""'}
    if parameter.name == "rules":
        return '[{ name = "nnm", f = 1 }, { name = "median" }]'
    if parameter.type in ("Rule", "Aggregator"):
        return '"median"'
    return samples.get(parameter.type, '"quantized"' if parameter.type == "Codec" else "...")


def _explain_part(name: str, kind: Kind | None, found: Description) -> str:
    article = "an" if kind and kind.one[0] in "aeiou" else "a"
    lines = [f"{name}, {article} {kind.one}" if kind else name]
    if found.text:
        lines += ["", *_indented(found.text)]
    if found.module and kind and kind.registry and found.module not in found.docstring:
        lines += ["", *_indented(found.module)]
    if found.parameters:
        lines += ["", "  Parameters"]
    for parameter in found.parameters.values():
        default = toml_text(parameter.default)
        state = "required" if parameter.default is None else f"default {default}"
        if parameter.default == "None":
            state = "optional"
        about = ", ".join(filter(None, [type_text(parameter.type), state]))
        lines.append(f"    {parameter.key}: {about}")
        if parameter.meaning:
            lines.append(f"      {parameter.meaning}")
    if kind:
        example = usage(name, kind, found.parameters.values())
        lines += ["", f"  Where: {' or '.join(kind.keys)}", "", *_indented(example, 4)]
    return "\n".join(lines).replace("``", "`") + "\n"


def _explain_key(key: str, found: Parameter) -> str:
    place, _, leaf = key.rpartition(".")
    where = f"of [[{place}]]" if place in ("faults", "engine.resources") else f"of [{place}]"
    lines = [f"{key}, a key {where if place else 'of the file'}", "", f"  {found.meaning}"]
    if found.type:
        default = toml_text(found.default)
        state = f"default {default}" if default else "optional"
        about = [type_text(found.type), found.bounds, state]
        lines.append(f"  {', '.join(filter(None, about))}")
        if leaf in ("optimizer", "name"):
            lines.append("")
    kinds = [kind for kind in KINDS.values() if key in kind.keys]
    lines += [f"  Names: {', '.join(kind)}" for kind in kinds]
    return "\n".join(lines).replace("``", "`") + "\n"


def _is_key(name: str, key: str) -> bool:
    return key == name or key.rpartition(".")[2] == name


def _indented(text: str, width: int = 2) -> Iterator[str]:
    return (" " * width + line if line else "" for line in text.splitlines())


def _entry(found: Description) -> Entry:
    parameters = [
        p.key if p.default in (None, "None") else f"{p.key}={toml_text(p.default)}"
        for p in found.parameters.values()
    ]
    return found.summary.replace("``", ""), ", ".join(parameters)


def _key_entry(found: Parameter) -> Entry:
    about = [type_text(found.type), found.bounds, toml_text(found.default)]
    return found.meaning.replace("``", ""), ", ".join(filter(None, about)) if found.type else ""


def _print_table(console: Console, title: str, rows: Iterable[tuple[str, Entry]]) -> None:
    """Print names beside their entries, wrapped; rich's tables take longer than all the rest."""
    rows = list(rows)
    indent = 2 + max(len(name) for name, _ in rows)
    room = max(console.width - indent, MIN_WIDTH)
    text = Text(f"{title}\n", style="bold")
    for name, (meaning, about) in rows:
        first = f" {name}".ljust(indent)
        for line in textwrap.wrap(meaning, room):
            text.append(f"{first}{line}\n", style="not bold")
            first = " " * indent
        for line in textwrap.wrap(about, room):
            text.append(f"{first}{line}\n", style="not bold dim")
            first = " " * indent
        if first.strip():
            text.append(f"{first.rstrip()}\n", style="not bold")
    console.print(text, soft_wrap=True, highlight=False)
