import pytest
import torch


@pytest.fixture
def draw():
    """Return a function that draws honest updates about a common mean."""

    def draw(seed=0, h=7, d=40, spread=1.0, common=1.0, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        mean = common * torch.randn(d, generator=generator, dtype=torch.float64)
        scale = spread * torch.rand(d, generator=generator, dtype=torch.float64)
        noise = torch.randn(h, d, generator=generator, dtype=torch.float64)
        return (mean + scale * noise).to(dtype)

    return draw


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread: the matrices are too small to divide."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
