"""A context manager that makes code with random numbers reproducible to the bit."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import torch

# The global generators and torch's thread count belong to the whole process.
_global_state_lock = threading.RLock()


_depth = 0  # of blocks in which the thread is that holds the lock


@contextmanager
def reproducible(seed: int, threads: int = 0, *, restores: bool = True) -> Iterator[None]:
    """Seed the process's global random generators for a block of code and restore them afterwards.

    The generators are torch's, NumPy's and Python's: data sets may draw their augmentation from any
    of them. Torch records gradients in the block, whatever ``torch.no_grad`` or
    ``torch.inference_mode`` is around it. Only one thread of the process at a time can be inside.

    Parameters
    ----------
    seed : int
        Seed of the global generators inside the block.
    threads : int, default=0
        Number of torch threads inside the block; 0 leaves it unchanged.
    restores : bool, default=True
        False to leave the generators as the block leaves them, if it is within another such block,
        which restores them: NumPy's takes as long as a step of a small model.
    """
    global _depth
    # Asking for CUDA's state would create a context on the GPU in a process that never uses it.
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with _global_state_lock, _restored_generators(gpus) if restores or not _depth else _NOTHING:
        threads_before = torch.get_num_threads() if threads else 0
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        if gpus:
            torch.cuda.manual_seed_all(seed)
        if threads:
            torch.set_num_threads(threads)
        _depth += 1
        try:
            if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
                try:
                    yield
                finally:
                    torch.set_grad_enabled(True)
            else:
                with torch.inference_mode(False), torch.enable_grad():
                    yield
        finally:
            _depth -= 1
            if threads:
                torch.set_num_threads(threads_before)


_NOTHING = nullcontext()


@contextmanager
def _restored_generators(gpus: Sequence[int]) -> Iterator[None]:
    """Restore the generators after the block, those of GPUs too."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    gpu_states = [torch.cuda.get_rng_state(gpu) for gpu in gpus]
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
        for gpu, state in zip(gpus, gpu_states, strict=True):
            torch.cuda.set_rng_state(state, gpu)
