"""Memory of large results: used again only when nothing can see it any more, and given back on request."""

import gc
import threading

import pytest
import torch

from upscale_fx.operators.kernels import memory

SHAPE = (1 << 12, 1 << 10)  # 16 MiB of float32
LIKE = torch.zeros(1)


@pytest.fixture(scope="module", autouse=True)
def _collected():
    """Whatever tensors earlier tests left in cycles."""
    gc.collect()


@pytest.fixture(autouse=True)
def _released():
    memory.release()
    yield
    memory.release()


def test_memory_is_used_again_when_the_tensor_is_gone():
    first = memory.empty(SHAPE, LIKE)
    place = first.data_ptr()
    assert (first.shape, first.dtype, first.is_contiguous()) == (torch.Size(SHAPE), torch.float32, True)
    del first
    assert memory.empty(SHAPE, LIKE).data_ptr() == place


@pytest.mark.parametrize("keep", [lambda x: x.view(-1)[5:], lambda x: x.t(), lambda x: x.detach(), lambda x: x.numpy()])
def test_a_view_holds_the_memory(keep):
    first = memory.empty(SHAPE, LIKE).fill_(3.0)
    place, view = first.data_ptr(), keep(first)
    del first
    gc.collect()
    others = [memory.empty(SHAPE, LIKE).zero_() for _ in range(3)]
    assert all(other.data_ptr() != place for other in others)
    assert (view == 3).all()


def test_a_gradient_holds_what_it_needs():
    x = torch.ones(SHAPE, requires_grad=True)
    hidden = (memory.empty(SHAPE, LIKE).fill_(2.0).requires_grad_() * 1).exp() * x
    memory.empty(SHAPE, LIKE).zero_()
    hidden.sum().backward()
    assert torch.allclose(x.grad, torch.full(SHAPE, 2.0).exp())


def test_no_more_is_kept_than_was_in_use_at_one_time():
    for _ in range(5):
        pair = [memory.empty(SHAPE, LIKE), memory.empty(SHAPE, LIKE)]
        del pair
    memory.empty(SHAPE, LIKE)
    memory.empty(SHAPE, LIKE)
    assert memory.kept_bytes() <= 2 * 4 * SHAPE[0] * SHAPE[1]
    memory.release()
    assert memory.kept_bytes() == 0


def test_what_is_not_wanted_again_goes():
    del (lone := {0: memory.empty((3 << 20,), LIKE)})[0]
    assert lone == {}
    for _ in range(memory.PATIENCE + 2):
        memory.empty(SHAPE, LIKE)
    assert memory.kept_bytes() <= 4 * SHAPE[0] * SHAPE[1]


def test_small_and_other_tensors_come_from_torch():
    assert memory.empty((3, 4), LIKE).shape == (3, 4)
    assert memory.empty(SHAPE, torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert memory.empty(SHAPE, torch.zeros(1, device="meta")).device.type == "meta"
    assert memory.empty((0, 1 << 30), LIKE).shape == (0, 1 << 30)


def test_threads_get_memory_of_their_own():
    wrong = []

    def work(number):
        for _ in range(30):
            mine = memory.empty(SHAPE, LIKE).fill_(number)
            if not (mine == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("bias", [None, torch.randn(7)])
def test_linear_layers_are_those_of_torch(bias):
    x, weight = torch.randn(50, 12), torch.randn(7, 12)
    expected = torch.nn.functional.linear(x, weight, bias)
    for view in (x, torch.randn(50, 20)[:, 3:15].copy_(x), x.t().contiguous().t()):
        with torch.no_grad():
            torch.testing.assert_close(memory.linear(view, weight, bias), expected)
    x.requires_grad_()
    assert memory.linear(x, weight, bias).requires_grad
