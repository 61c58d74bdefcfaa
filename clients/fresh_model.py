"""A model that begins every message as it was built, whatever its modules keep besides weights."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from types import FunctionType, ModuleType
from typing import Any, final
from weakref import ProxyTypes, ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hqde_fl.clients.module_copy import ModuleCopier
from hqde_fl.clients.module_restorer import ModuleRestorer, is_restorable


@final
class FreshModel:
    """A model, from which nothing leaks from one message or evaluation into the next.

    Weights and buffers come with each message. What a module keeps elsewhere, such as the state of
    a recurrent layer in an attribute, a counter, a buffer that is not in the state dict, a hook,
    or ``requires_grad``, is that of a model just built: each message gets a copy of the modules
    that shares their weights, so that it costs little. A model that cannot be copied, or of which
    a copy would share more than its weights, is built anew: one that keeps locks, closures (as
    hooks often are), weak references, or views of its weights. What is kept outside of the
    modules, in globals or attributes of a class, is beyond this class.

    Parameters
    ----------
    build : Callable[[], nn.Module]
        Builds the model, always the same.
    new_optimizer : Callable[[nn.Module], Optimizer], optional
        Returns an optimiser of a model's parameters; only ``load_to_train`` needs it.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        new_optimizer: Callable[[nn.Module], Optimizer] | None = None,
    ) -> None:
        self._build, self._new_optimizer = build, new_optimizer
        self._own: list[tuple[Tensor, Tensor]] = []
        self._is_unused = False  # True while the one copy is known to be as it was built
        self._keep(build())

    @property
    def trained_bytes(self) -> int:
        """The bytes of the parameters that are trained."""
        return sum(p.nbytes for p, requires_grad, _ in self._parameters if requires_grad)

    def _keep(self, model: nn.Module) -> None:
        """Keep a model just built, of which copies are made."""
        self._pristine = model
        self._parameters = [(p, p.requires_grad, dict(vars(p))) for p in model.parameters()]
        shared = [*model.state_dict(keep_vars=True).values(), *model.parameters()]
        self._shared = [value for value in shared if isinstance(value, Tensor)]
        self._entries = _plain_entries(model)
        self._is_copyable = _is_copyable(model, self._shared)
        self.__dict__.pop("_optimizer", None)
        self.__dict__.pop("_copier", None)
        self.__dict__.pop("_restorer", None)
        self._is_unused = False

    @property
    def built(self) -> nn.Module:
        """A model to look at, not to call: that of which copies are made."""
        return self._pristine

    def load(self, state: Mapping[str, Tensor]) -> nn.Module:
        """Return the model with the weights and buffers of a state dict.

        It is valid until the next call, which may change its weights.
        """
        return self._load(state)[0]

    def load_to_train(self, state: Mapping[str, Tensor]) -> tuple[nn.Module, Optimizer]:
        """Return the model with the weights and buffers of a state dict, and its optimiser.

        The optimiser may be that of an earlier call: its state is to be cleared.
        """
        assert self._new_optimizer is not None
        model, is_copy = self._load(state)
        return model, self._optimizer if is_copy else self._new_optimizer(model)

    @property
    def entries(self) -> Mapping[str, Tensor] | None:
        """The entries of the model's state dict, if each has memory of its own that can be moved.

        None for a model of which no copies are made, or that makes state dicts in its own way.
        """
        entries = self._entries if self._is_copyable else None
        return entries if entries and _own_memory(entries.values()) else None

    def train_in(self, values: Sequence[Tensor]) -> tuple[nn.Module, Optimizer]:
        """Return the model and its optimiser, with its entries in the memory of other tensors.

        Parameters
        ----------
        values : Sequence[Tensor]
            A tensor for each of ``entries``, of its shape and dtype, with the values to begin with.
        """
        model = self._unused_copy()
        assert model is not None
        assert self._entries is not None
        self._restore_parameters()
        entries = self._entries.values()
        self._own = self._own or [(entry, entry.data) for entry in entries]
        for entry, value in zip(entries, values, strict=True):
            entry.data = value
        return model, self._optimizer

    def release(self) -> None:
        """Let no entry be in the memory given to ``train_in`` any more."""
        for entry, own in self._own:
            entry.data = own
        self._own = []

    def is_in(self, model: nn.Module, values: Sequence[Tensor]) -> bool:
        """Return True if the entries of a result of ``train_in`` still are in this memory."""
        assert self._entries is not None
        restorer = self._restorer
        self._is_unused = restorer is not None and restorer.is_unchanged  # and has the same entries
        if not self._is_unused and not _are_same(model.state_dict(keep_vars=True), self._entries):
            return False
        return all(
            entry.data_ptr() == value.data_ptr() and entry.shape == value.shape
            for entry, value in zip(self._entries.values(), values, strict=True)
        )

    def _unused_copy(self) -> nn.Module | None:
        """Return the model as it was built, but for the values of its tensors.

        None if no copies are made of it.
        """
        if not self._is_copyable:
            return None
        if any(_has_hooks(parameter) for parameter, _, _ in self._parameters):
            self._keep(self._build())  # a message has left them at the shared weights
            if not self._is_copyable:
                return None
        if self._restorer is None:
            return self._copier.copy()
        if not self._is_unused:
            self._restorer.restore()
        self._is_unused = False
        return self._restorer.model

    def _load(self, state: Mapping[str, Tensor]) -> tuple[nn.Module, bool]:
        """Return the model with the values of a state dict, and True if it is a copy."""
        model = self._unused_copy()
        if model is None:
            model = self._build()
            model.load_state_dict(state)
            return model, False
        self._restore_parameters()
        if self._entries is None or not _fit(state, self._entries):
            model.load_state_dict(state)
        else:
            with torch.no_grad():
                torch._foreach_copy_(
                    list(self._entries.values()), [state[name] for name in self._entries]
                )
        return model, True

    def _restore_parameters(self) -> None:
        """Restore what the shared parameters have besides their values."""
        for parameter, requires_grad, attributes in self._parameters:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
            if parameter.grad is not None:
                parameter.grad = None
            if parameter.__dict__ or attributes:
                parameter.__dict__.clear()
                parameter.__dict__.update(attributes)

    @cached_property
    def _optimizer(self) -> Optimizer:
        assert self._new_optimizer is not None
        return self._new_optimizer(self._pristine)

    @cached_property
    def _copier(self) -> ModuleCopier:
        return ModuleCopier(self._pristine, self._shared)

    @cached_property
    def _restorer(self) -> ModuleRestorer | None:
        """Restores the one copy that all messages get; None if each needs its own."""
        if not is_restorable(self._pristine, self._shared):
            return None
        return ModuleRestorer(self._copier.copy())

    def __getstate__(self) -> dict[str, Any]:
        """Return all but what knows the model by the addresses of this process."""
        own = {"_copier", "_restorer"}
        return {key: value for key, value in vars(self).items() if key not in own}


def _is_copyable(model: nn.Module, shared: Iterable[Tensor]) -> bool:
    """Return True if a copy of a model that shares some tensors shares nothing else with it."""
    shared = list(shared)
    with suppress(Exception):  # modules may keep what cannot be copied, such as locks
        if any(map(_has_hooks, shared)) or not _are_separate(model, shared):
            return False
        copied = ModuleCopier(model, shared).copy()
        values = (m.state_dict(keep_vars=True) for m in (model, copied))
        weights = (dict(m.named_parameters()) for m in (model, copied))
        return all(_are_same(*pair) for pair in (tuple(values), tuple(weights)))
    return False


def _plain_entries(model: nn.Module) -> dict[str, Tensor] | None:
    """Return the entries of a model's state dict, if loading one only copies values into them.

    None if a module loads, or makes, a state dict in a way of its own.
    """
    for module in model.modules():
        kind = type(module)
        if any(getattr(kind, name) is not getattr(nn.Module, name) for name in _STATE_METHODS):
            return None
        if kind._load_from_state_dict not in _PLAIN_LOADS or _STATE_METHODS & vars(module).keys():
            return None
        if any(getattr(module, hooks) for hooks in _STATE_HOOKS):
            return None
    return dict(model.state_dict(keep_vars=True)) or None


_STATE_METHODS = frozenset(
    ("state_dict", "load_state_dict", "_save_to_state_dict", "get_extra_state", "set_extra_state")
)
"""Methods by which modules make and load state dicts, all but the one that loads a module's own."""

_PLAIN_LOADS = (
    nn.Module._load_from_state_dict,
    nn.modules.batchnorm._NormBase._load_from_state_dict,
)
"""Methods that copy the entries of a module; that of batch normalisation adds what is missing."""

_STATE_HOOKS = (
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)


def _own_memory(entries: Collection[Tensor]) -> bool:
    """Return True if each tensor is all of its memory, on the CPU and in C order."""
    seen = set[int]()
    for entry in entries:
        storage = entry.untyped_storage()
        is_all = storage.nbytes() == entry.numel() * entry.itemsize and entry.numel() > 0
        ordered = entry.stride() == torch.empty(entry.shape, device="meta").stride()
        if not (is_all and ordered and entry.device.type == "cpu" and type(entry) in _PLAIN_TYPES):
            return False
        seen.add(storage.data_ptr())
    return len(seen) == len(entries)


_PLAIN_TYPES = (Tensor, nn.Parameter)


def _fit(state: Mapping[str, Tensor], entries: Mapping[str, Tensor]) -> bool:
    """Return True if a state dict has the names and shapes of a model's entries."""
    return state.keys() == entries.keys() and all(
        state[name].shape == entry.shape for name, entry in entries.items()
    )


def _are_same(some: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """Return True if two mappings have the same tensors under the same names."""
    return some.keys() == others.keys() and all(some[name] is others[name] for name in some)


def _has_hooks(tensor: Tensor) -> bool:
    hooks = (getattr(tensor, name, None) for name in ("_backward_hooks", *_ACCUMULATED))
    return any(hooks)


_ACCUMULATED = ("_post_accumulate_grad_hooks",)


def _are_separate(model: nn.Module, shared: list[Tensor]) -> bool:
    """Return True if modules keep nothing that would lead from their copy back to them.

    That is a function that has captured something, a weak reference to anything but a shared
    tensor, and another tensor in the memory of a shared one.
    """
    ids = {id(tensor) for tensor in shared}
    storages = {tensor.untyped_storage().data_ptr() for tensor in shared if tensor.numel()}
    for value in _reachable(vars(module) for module in model.modules()):
        if isinstance(value, FunctionType) and value.__closure__:
            return False
        if isinstance(value, ref) and (target := value()) is not None and id(target) not in ids:
            return False
        if isinstance(value, ProxyTypes):
            return False
        is_other = isinstance(value, Tensor) and id(value) not in ids and value.numel()
        if is_other and value.untyped_storage().data_ptr() in storages:
            return False
    return True


def _reachable(values: Iterable[Any]) -> Iterator[Any]:
    """Yield values and everything that they refer to, but nothing behind classes and functions."""
    waiting, seen, kept = list(values), set(), []
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, type | ModuleType):
            continue
        seen.add(id(value))
        kept.append(value)  # its id must not be used again
        yield value
        if not isinstance(value, FunctionType | Tensor):
            waiting += gc.get_referents(value)
