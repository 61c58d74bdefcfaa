"""The roles of a model's entries: what is trained, and what only goes with it.

Weights are the update: codecs, rules, server optimisers and noise act on them alone. Everything
else in a state dict has another role and is carried beside them, without loss.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, final, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

from hqde_fl.errors import ConfigError, UnknownNameError

Role = Literal["trainable", "statistics", "counters", "frozen"]
"""The role of an entry of a state dict; a second name of one tensor is *tied* besides.

``trainable``: weights with ``requires_grad``, which are the update. ``statistics``: floating-point
numbers that a module keeps of its data, such as the running mean and variance of batch
normalisation. ``counters``: integer and boolean buffers. ``frozen``: all that nobody trains.
"""

SUPPORTED_DTYPES = frozenset(
    {"bool", "uint8", "int8", "int16", "int32", "int64"}
    | {"float16", "bfloat16", "float32", "float64", "complex64", "complex128"}
)
"""The dtypes of entries that can be carried, in NumPy's spelling."""

STATISTICS = re.compile(
    r"(^|.*\.)(running_mean|running_var|running_std|moving_mean|moving_var|moving_variance"
    r"|_u|_v)|(^|.*[._])(ema|shadow)([._].*|$)"
)
"""The names of well-known statistics: of normalisation, of spectral norms, and moving averages."""

VARIANCE = re.compile(r"(^|.*\.)(running_var|moving_var|moving_variance)")
"""The names of well-known variances, which are never negative."""


def inferred_role(name: str, dtype: str) -> Role:
    """Return the role that an entry's name and dtype suggest, where the model is not known."""
    if not is_floating(dtype):
        return "counters"
    return "statistics" if STATISTICS.fullmatch(name) else "trainable"


def is_floating(dtype: str) -> bool:
    """Return whether a dtype, in NumPy's spelling, holds real or complex floating-point numbers."""
    return "float" in dtype or is_complex(dtype)


def is_complex(dtype: str) -> bool:
    """Return whether a dtype, in NumPy's spelling, holds complex numbers."""
    return dtype.startswith("complex")


@final
@dataclass(frozen=True)
class Roles:
    """The roles of a model's entries, where they are known.

    Parameters
    ----------
    roles : Mapping[str, Role]
        Name in the state dict, or a pattern such as ``"backbone.*"`` -> role. The role of an entry
        that none of them names is inferred from its name and dtype.
    tied : Mapping[str, str]
        Name -> the first name of the same tensor, of the same shape and dtype.
    buffers : frozenset[str]
        Names of frozen entries that become statistics or counters, not weights, if clients change
        them.

    Raises
    ------
    ConfigError
        If a role is unknown, or a name is tied to itself or to a name that is tied.
    """

    roles: Mapping[str, Role] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    buffers: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for role in self.roles.values():
            if role not in get_args(Role):
                raise UnknownNameError("role", str(role), get_args(Role))
        for name, first in self.tied.items():
            if name == first or first in self.tied:
                raise ConfigError(
                    f"Roles.tied needs first names as values, found {name!r}: {first!r}"
                )

    def of(self, name: str, dtype: str) -> Role:
        """Return the role of an entry: that of its name, else of the last pattern that fits.

        A pattern makes only floating-point entries trainable.

        Raises
        ------
        ConfigError
            If the entry itself is said to be trainable, and is not floating-point.
        """
        if name in self.roles:
            if self.roles[name] == "trainable" and not is_floating(dtype):
                raise ConfigError(
                    f"role 'trainable' of {name!r} needs a float dtype, found {dtype}"
                )
            return self.roles[name]
        matching = [role for key, role in self.roles.items() if fnmatch.fnmatchcase(name, key)]
        suggested = inferred_role(name, dtype)
        if not matching or (matching[-1] == "trainable" and not is_floating(dtype)):
            return suggested
        return matching[-1]

    def require_names(self, names: Iterable[str]) -> None:
        """Raise ``UnknownNameError`` if a role or a tie is given for a name that no entry has."""
        known = dict.fromkeys(names)
        for name in (*self.tied, *self.tied.values(), *self.roles):
            if name in known or (name in self.roles and fnmatch.filter(known, name)):
                continue
            raise UnknownNameError("entry of the model", name, known)


def roles_of(model: nn.Module) -> Roles:
    """Return the roles of a model's entries.

    A parameter is trainable or, without ``requires_grad``, frozen; integer and boolean buffers are
    counters; floating-point buffers and moving averages with a well-known name, and torch's
    ``AveragedModel``, are statistics, and other floating-point buffers are taken to be constant:
    frozen until clients change them.

    Raises
    ------
    ConfigError
        If an entry cannot be carried: an unmaterialised lazy parameter, the extra state of a
        module, a dtype such as float8, a sparse or a meta tensor; or if nothing can be trained. The
        message names the entry.
    """
    state = model.state_dict(keep_vars=True)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    averages = _averaged_names(model)
    roles: dict[str, Role] = {}
    tied: dict[str, str] = {}
    first_names: dict[object, str] = {}
    for name, value in state.items():
        _require_supported(name, value)
        dtype = str(value.dtype).removeprefix("torch.")
        identity = (value.device, value.data_ptr(), value.shape, value.stride(), dtype)
        first = first_names.setdefault(identity, name) if value.numel() else name
        if first != name:
            tied[name] = first
        trained = value.requires_grad or (name in parameters and parameters[name].requires_grad)
        if name in averages or _is_singular_vector(name, state):
            roles[name] = "statistics" if is_floating(dtype) else "counters"
        elif trained:
            roles[name] = "trainable"
        else:
            roles[name] = _untrained_role(name, dtype, is_parameter=name in parameters)
    for name, first in tied.items():
        roles[name] = roles[first]
    if not any(role == "trainable" and state[name].numel() for name, role in roles.items()):
        raise ConfigError(
            f"the model needs a floating-point parameter with requires_grad, found {_listed(state)}"
        )
    weights = {name for name, value in parameters.items() if is_floating(str(value.dtype))}
    return Roles(roles, tied, frozenset(state.keys() - weights))


def _untrained_role(name: str, dtype: str, *, is_parameter: bool) -> Role:
    """Return the role of a buffer, or of a parameter without ``requires_grad``."""
    suggested = inferred_role(name, dtype)
    if suggested == "trainable" or (suggested == "counters" and is_parameter):
        return "frozen"
    return suggested


def _averaged_names(model: nn.Module) -> set[str]:
    """Return the names below torch's averaged copies of models, whose parameters ask for gradients.

    The model itself is not taken for such a copy.
    """
    return {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if prefix and isinstance(module, AveragedModel)
        for name in module.state_dict(keep_vars=True)
    }


def _is_singular_vector(name: str, state: Mapping[str, Tensor]) -> bool:
    """Return whether a name is that of an estimate in torch's older spectral norm."""
    return name.endswith(("_u", "_v")) and f"{name[:-2]}_orig" in state


def _require_supported(name: str, value: object) -> None:
    """Raise ``ConfigError`` if an entry of a state dict cannot be carried."""
    if name.rpartition(".")[2] == "_extra_state":
        problem = "is a module's extra state (get_extra_state): only parameters and buffers travel"
    elif not isinstance(value, Tensor):
        problem = f"is a {type(value).__name__}: only tensors can be carried"
    elif is_lazy(value):
        problem = "is not materialised yet: call a lazy module once before it is handed over"
    elif value.layout != torch.strided or value.is_meta:
        problem = f"is a {'meta' if value.is_meta else 'sparse'} tensor: it holds no dense numbers"
    elif str(value.dtype).removeprefix("torch.") not in SUPPORTED_DTYPES:
        problem = f"has dtype {value.dtype}: convert it, for instance to bfloat16"
    else:
        return
    raise ConfigError(f"entry {name!r} of the model {problem}")


def _listed(state: Mapping[str, Tensor]) -> str:
    """Return text with the number of entries and the first three of them, with their dtypes."""
    shown = [f"{name} {str(v.dtype).removeprefix('torch.')}" for name, v in state.items()][:3]
    return f"{len(state)} entries" + (
        f" ({', '.join(shown)}{', ...' * (len(state) > 3)})" if shown else ""
    )
