"""A device beside the CPU on any machine: its tensors refuse to meet the CPU's, as a GPU's do.

Each of its tensors holds one of the CPU, on which PyTorch computes what is asked of it. It stands
in for a GPU where only the place of tensors matters, and says nothing of speed or rounding.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

NAME = "elsewhere"
COPIES = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}
"""Operators that take tensors from one device to another."""


class Backend(_DummyBackendModule):  # type: ignore[misc]
    """What PyTorch asks of a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Return the types of mixed precision."""
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
ELSEWHERE = torch.device(NAME, 0)


class TensorElsewhere(Tensor):
    """A tensor of the other device; `on_cpu` holds its numbers."""

    on_cpu: Tensor

    @staticmethod
    def __new__(cls: "type[TensorElsewhere]", on_cpu: Tensor) -> "TensorElsewhere":
        """Wrap a tensor of the CPU."""
        wrapper: TensorElsewhere = Tensor._make_wrapper_subclass(
            cls,
            on_cpu.size(),
            strides=on_cpu.stride(),
            storage_offset=on_cpu.storage_offset(),
            dtype=on_cpu.dtype,
            device=ELSEWHERE,
        )
        wrapper.on_cpu = on_cpu
        return wrapper

    def __repr__(self, **_: Any) -> str:
        return f"{NAME}: {self.on_cpu!r}"

    def tolist(self) -> Any:
        """Return the numbers, which PyTorch gives of its own tensors alone."""
        return self.on_cpu.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, operator: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Compute an operator of which an argument is such a tensor."""
        return compute(operator, *args, **(kwargs or {}))


def compute(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute an operator on the CPU; what comes out is where the arguments are, or `device`.

    Raises:
        RuntimeError: Some arguments are here and some there, or it changes the size of one, which
            its wrapper cannot follow.
    """
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    theirs = {id(t.on_cpu): t for t in tensors if isinstance(t, TensorElsewhere)}
    ours = [t for t in tensors if not isinstance(t, TensorElsewhere) and t.ndim]
    if theirs and ours and operator not in COPIES:
        raise RuntimeError(f"{operator}: tensors of two devices")
    stays = isinstance(args[0], TensorElsewhere) if operator in COPIES else bool(theirs)
    if kwargs.get("device") is not None:
        stays = torch.device(kwargs["device"]).type == NAME
        kwargs["device"] = torch.device("cpu")

    def fetch(leaf: Any) -> Any:
        return leaf.on_cpu if isinstance(leaf, TensorElsewhere) else leaf

    def send(leaf: Any) -> Any:
        if not stays or not isinstance(leaf, Tensor):
            return leaf
        return theirs[id(leaf)] if id(leaf) in theirs else TensorElsewhere(leaf)

    found = operator(*pytree.tree_map(fetch, args), **pytree.tree_map(fetch, kwargs))
    for tensor in theirs.values():
        if tensor.shape != tensor.on_cpu.shape:
            raise RuntimeError(f"{operator} resizes a tensor: expected its factory in RESIZING")
    return pytree.tree_map(send, found)


RESIZING = (
    *("arange", "arange.start", "arange.start_step", "linspace"),
    *("eye", "eye.m", "randperm", "randperm.generator"),
)
"""Factories that PyTorch makes of an empty tensor, where it knows of no kernel for the device."""
FALLBACK = torch.library.Library("_", "IMPL")
FALLBACK.fallback(compute, "PrivateUse1")  # for operators without a tensor among their arguments
KERNELS = torch.library.Library("aten", "IMPL")
for factory in RESIZING:
    packet, _, overload = factory.partition(".")
    operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
    KERNELS.impl(factory, partial(compute, operator), "PrivateUse1")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Return the other device, ready for all that is asked of it here.

    Tensors made from lists come by way of the CPU, and inference mode is `no_grad`: neither knows
    devices that are written in Python.
    """
    from_list = torch.tensor

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        found = from_list(data, **options)
        return found if device is None else found.to(device)

    monkeypatch.setattr(torch, "tensor", tensor)
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)
    return ELSEWHERE
