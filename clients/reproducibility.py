"""A context manager that makes code with random numbers reproducible to the bit."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# The global generators and torch's thread count belong to the whole process.
_global_state_lock = threading.RLock()


@contextmanager
def reproducible(seed: int, threads: int = 0) -> Iterator[None]:
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
    """
    # Asking for CUDA's state would create a context on the GPU in a process that never uses it.
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with _global_state_lock, torch.random.fork_rng(devices=gpus):
        threads_before = torch.get_num_threads()
        states = random.getstate(), np.random.get_state()
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        if gpus:
            torch.cuda.manual_seed_all(seed)
        if threads:
            torch.set_num_threads(threads)
        try:
            with torch.inference_mode(False), torch.enable_grad():
                yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            if threads:
                torch.set_num_threads(threads_before)
