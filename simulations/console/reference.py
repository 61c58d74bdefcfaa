"""The reference of an experiment's file, as Markdown: ``hqde-fl reference > docs/reference.md``.

It is made from the classes that check the file: their annotations, bounds, defaults and docstrings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hqde_fl.simulations.console.kinds import EXPERIMENT, KINDS, SECTIONS, TABLES, Kind, keys
from hqde_fl.simulations.console.listing import toml_text, type_text, usage
from hqde_fl.simulations.console.part_source import Description, Parameter, describe

INTRODUCTION = """\
# Reference of the experiment file

Made by `hqde-fl reference` from the code that checks the file. `hqde-fl explain NAME` prints one
entry, [Experiments](experiments.md) explains how to write experiments and sweeps.

Where a **name** stands, these are possible:

* a name of the lists below: `rule = "median"`, or a table with parameters:
  `rule = { name = "krum", f = 2 }`;
* a class of your own: `module:Class`, or `FILE.py:Class` with a path relative to the experiment's
  file. Tasks and metrics are functions.
  [Parts of your own](experiments.md#parts-of-your-own) says what they must be;
* a name that an installed package adds
  ([CONTRIBUTING.md](../CONTRIBUTING.md#parts-in-a-package-of-your-own)).

An unknown key or name, a wrong type and a value out of bounds are errors of one line, before
anything starts.
"""

SWEEP = """\
## `[sweep]`

Lists of values for keys of the experiment: every combination is a run. `rule`, `attack`, `codec`,
`partition` and `seeds` are short for `strategy.rule`, `faults`, `strategy.codec`,
`clients.partition` and `seed`. See [Writing a sweep](experiments.md#writing-a-sweep).

```toml
[sweep]
rule = ["mean", { name = "trimmed-mean", f = 2 }]
"clients.lr" = [0.05, 0.1]
seeds = [1, 2, 3]
```

Beside these, some settings say how the results are compared.
"""

EXAMPLES = {
    "callbacks": 'callbacks = ["mine.py:Notes"]',
    "clients.bandwidth": 'bandwidth = { name = "log-uniform", up = 10, down = 50 }',
    "clients.drop-out": "drop-out = 0.1",
    "clients.entanglement-noise": "entanglement-noise = { scale = 0.01 }",
    "clients.dp-sgd": "dp-sgd = { noise-multiplier = 1.0 }",
    "clients.dp-sgd.noise": 'noise = "seeded-gaussian"',
    "clients.lr-schedule": 'lr-schedule = { name = "cosine", rounds = 100 }',
    "clients.local-dp": "local-dp = { epsilon = 8.0 }",
    "clients.local-dp.epsilon": "epsilon = 8.0",
    "clients.local-dp.noise": 'noise = "seeded-gaussian"',
    "clients.regularization-noise": "regularization-noise = { scale = 0.01 }",
    "clients.speed": 'speed = { name = "log-uniform", ratio = 10 }',
    "clients.voters": "voters = 3",
    "clients.without": "without = [3, 5]",
    "edges.bandwidth": 'bandwidth = { name = "constant", up = 100, down = 100 }',
    "engine.address": 'address = "10.0.0.5:6379"',
    "engine.files": 'files = ["data/*.csv"]',
    "engine.resources": 'resources = [{ partitions = "0-4", num-cpus = 2 }]',
    "engine.runtime-env": 'runtime-env = { pip = ["einops"] }',
    "faults": '[[faults]]<br>name = "sign-flip"<br>count = 2',
    "faults.absent": "absent = true",
    "faults.clients": "clients = [0, 3]",
    "faults.count": "count = 2",
    "faults.fraction": "fraction = 0.2",
    "faults.name": 'name = "sign-flip"',
    "faults.on": "on = 2",
    "faults.period": "period = 5",
    "faults.resample": "resample = true",
    "faults.start": "start = 5",
    "faults.stop": "stop = 20",
    "metrics.functions": 'functions = ["mine.py:recall"]',
    "metrics.higher-is-better": "higher-is-better = { recall = true }",
    "metrics.primary": 'primary = "recall"',
    "metrics.target": "target = 0.9",
    "monitor.prometheus": 'prometheus = "127.0.0.1:9400"',
    "stopping.metric": 'metric = "accuracy"',
    "sweep.baseline": 'baseline = "mean"',
    "sweep.choose": 'choose = ["clients.lr"]',
    "sweep.compare": 'compare = "rule"',
    "sweep.interval": 'interval = "bootstrap"',
    "sweep.metric": 'metric = "loss"',
    "privacy.adaptive-clipping": "adaptive-clipping = { quantile = 0.5 }",
    "strategy.confidence-metric": 'confidence-metric = "train-loss"',
    "strategy.server-lr-schedule": 'server-lr-schedule = { name = "step", every = 30 }',
    "strategy.exploration-noise": "exploration-noise = { scale = 0.1 }",
    "strategy.held-out-measure": 'held-out-measure = "mine.py:quality"',
    "strategy.screening": "screening = { max-metrics = 100 }",
    "strategy.secure-aggregation": "secure-aggregation = { bucket = 5, threshold = 4 }",
    "engine.resources.memory-fraction": "memory-fraction = 0.25",
    "engine.resources.partitions": 'partitions = "0-4,7"',
}
"""Examples of keys whose default is empty."""


def reference() -> str:
    """Return the reference as Markdown."""
    lines = [INTRODUCTION]
    found = keys()
    top = [key for key in found if "." not in key and key != "faults"]
    lines += ["## The file", "", *_key_table({key: found[key] for key in top})]
    for section in dict.fromkeys(key.partition(".")[0] for key in found if "." in key):
        lines += _section(section) if section != "sweep" else _sweep()
    for kind in KINDS.values():
        lines += _kind(kind)
    return "\n".join(lines).replace("``", "`").rstrip() + "\n"


def _section(name: str) -> Iterator[str]:
    found = keys()
    yield from ("", f"## `[[{name}]]`" if name == "faults" else f"## `[{name}]`", "")
    kind = describe(EXPERIMENT).parameters[name].type
    if kind.endswith("Section"):
        summary = describe(f"{SECTIONS}:{kind}").summary
        about = summary.partition(": ")[2]
        yield from (about[:1].upper() + about[1:], "")
    else:
        yield from ("One table for each fault, besides the fault's own parameters.", "")
    depth = name.count(".") + 1
    yield from _key_table(
        {
            key: f
            for key, f in found.items()
            if key.startswith(f"{name}.") and key.count(".") == depth
        }
    )
    for table in TABLES:
        if table.startswith(f"{name}."):
            yield from ("", f"### `{table}`", "")
            inner = {key: f for key, f in found.items() if key.startswith(f"{table}.")}
            yield from _key_table(inner)


def _sweep() -> Iterator[str]:
    yield from ("", SWEEP)
    yield from _key_table({key: found for key, found in keys().items() if key.startswith("sweep.")})
    yield ""


def example(key: str, found: Parameter) -> str:
    """Return a line of a file that sets a key."""
    return EXAMPLES.get(key) or f"{key.rpartition('.')[2]} = {toml_text(found.default)}"


def _key_table(found: dict[str, Parameter]) -> Iterator[str]:
    yield "| key | type | default | meaning | example |"
    yield "|---|---|---|---|---|"
    for key, parameter in found.items():
        kinds = [f"[{kind.name}](#{kind.name})" for kind in KINDS.values() if key in kind.keys]
        types = ", ".join(filter(None, [type_text(parameter.type), parameter.bounds]))
        meaning = " ".join(
            [parameter.meaning, *(["Names:", ", ".join(kinds) + "."] if kinds else [])]
        )
        yield _row(
            f"`{key.rpartition('.')[2]}`",
            types,
            _code(toml_text(parameter.default)),
            meaning,
            "<br>".join(map(_code, example(key, parameter).split("<br>"))),
        )


def _kind(kind: Kind) -> Iterator[str]:
    where = ", ".join(f"`{key}`" for key in kind.keys)
    yield from (f"## {kind.name}", "", f"Of the file's {where}.", "")
    for name, found in kind.described():
        yield from _part(kind, name, found)
    if not [*kind]:
        yield from ("None is built in; name a class of your own.", "")


def _part(kind: Kind, name: str, found: Description) -> Iterable[str]:
    if kind.registry is None:
        return [f"* `{name}`: {found.docstring}", ""]
    lines = [f"### `{name}`", "", found.text, ""]
    if found.parameters:
        lines += ["| parameter | type | default | meaning |", "|---|---|---|---|"]
    for parameter in found.parameters.values():
        default = "required" if parameter.default is None else _code(toml_text(parameter.default))
        types = type_text(parameter.type)
        lines.append(_row(f"`{parameter.key}`", types, default, parameter.meaning))
    example = usage(name, kind, found.parameters.values())
    return [*lines, *([""] if found.parameters else []), "```toml", example, "```", ""]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""
