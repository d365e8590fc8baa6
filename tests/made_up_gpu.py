"""A GPU that is made up, for machines without one: a CUDA device, or a Mac's (mps), which lacks float64.

Inside `with made_up_gpu("cuda")` torch believes in a GPU. Tensors that are sent there say so, are computed
with on the CPU, and refuse what a GPU refuses: to be mixed with tensors that lie elsewhere, and to become
NumPy arrays. It shows where data lie, not how fast or how exact a GPU is.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

Kind = Literal["cuda", "mps"]

_KINDS = ("cuda", "mps")
_COPIES = {"to", "cuda", "cpu", "copy_", "type_as"}  # may read from one device and write to another
_WIDE = (torch.float64, torch.complex128)
_CPU = torch.device("cpu")
_IS_ON = {Tensor.is_cuda.__get__: "cuda", Tensor.is_mps.__get__: "mps", Tensor.is_cpu.__get__: "cpu"}


class _OnGpu(Tensor):
    """A tensor whose memory counts as the GPU's."""

    __torch_function__ = torch._C._disabled_torch_function_impl


class MadeUpGpu(TorchFunctionMode):
    """Sees every call of torch in the thread that entered it; threads of pools enter it by themselves."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.device = torch.device(kind, 0)
        self.ran: set[str] = set()  # names of the functions that computed on the GPU

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        there = any(isinstance(each, _OnGpu) for each in tensors)
        if func == Tensor.device.__get__:
            return self.device if there else _CPU
        if func in _IS_ON:
            return self._where(there).type == _IS_ON[func]
        if name == "_has_compatible_shallow_copy_type":
            return isinstance(args[0], _OnGpu) == isinstance(args[1], _OnGpu)
        if func is torch.device or name in ("as_subclass", "_parse_to", "__new__"):
            return func(*args, **kwargs)
        if name == "pin_memory":
            return args[0]
        if there:
            _refuse(name, args, tensors, self.device)
        target = self._target(name, args, kwargs, tensors) or self._where(there)
        out = func(*tree_map(self._for_cpu, args), **tree_map(self._for_cpu, kwargs))
        if name == "__iter__":
            out = iter(list(out))
        if target.type == "cpu":
            return tree_map(_plain, out)
        self.ran.add(name)
        return iter([self._sent(each) for each in out]) if name == "__iter__" else tree_map(self._sent, out)

    def _where(self, there: bool) -> torch.device:
        return self.device if there else _CPU

    def _target(self, name: str, args: tuple, kwargs: dict, tensors: list[Tensor]) -> torch.device | None:
        """Return the device that a call asks for, None where it asks for none."""
        if name in ("cuda", "cpu"):
            return torch.device(name)
        if name in ("to", "type_as") and len(args) > 1 and isinstance(args[1], Tensor):
            return self._where(isinstance(args[1], _OnGpu))
        if name == "copy_":
            return self._where(isinstance(args[0], _OnGpu))
        asked = [kwargs.get("device"), *(args[1:] if name in _COPIES else [])]
        if not tensors:
            asked += args
        return next((torch.device(each) for each in asked if _is_device(each)), None)

    def _for_cpu(self, value: Any) -> Any:
        return _CPU if _is_device(value) and torch.device(value).type in _KINDS else _plain(value)

    def _sent(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, _OnGpu):
            return value
        if self.device.type == "mps" and value.dtype in _WIDE:
            raise TypeError(f"Cannot convert a MPS Tensor to {value.dtype}: MPS doesn't support float64.")
        return _as(_OnGpu, value)


@contextmanager
def made_up_gpu(kind: Kind = "cuda") -> Iterator[MadeUpGpu]:
    """Let torch believe in a GPU of a kind, and in no other; threads of pools believe in it too."""
    mode, future = MadeUpGpu(kind), torch.__future__
    answers = {
        "cuda.is_available": kind == "cuda",
        "cuda.device_count": int(kind == "cuda"),
        "cuda.is_bf16_supported": True,
        "cuda.current_device": 0,
        "cuda.get_device_capability": (9, 0),
        "cuda.get_device_name": "made up",
        "cuda.mem_get_info": (2**33, 2**34),
        "cuda.memory_allocated": 0,
        "cuda.memory_reserved": 0,
        "cuda.synchronize": None,
        "backends.mps.is_available": kind == "mps",
    }
    submit = ThreadPoolExecutor.submit

    def submit_with_mode(pool: ThreadPoolExecutor, function: Callable, *args: Any, **options: Any) -> Any:
        def run() -> Any:
            with mode:
                return function(*args, **options)

        return submit(pool, run)

    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch(f"torch.{name}", return_value=answer))
        stack.enter_context(mock.patch.object(ThreadPoolExecutor, "submit", submit_with_mode))
        # A module that is moved gets new parameters: those that it has cannot change their class.
        before = future.get_overwrite_module_params_on_conversion()
        stack.callback(future.set_overwrite_module_params_on_conversion, before)
        future.set_overwrite_module_params_on_conversion(True)
        stack.enter_context(mode)
        yield mode


def _refuse(name: str, args: tuple, tensors: list[Tensor], device: torch.device) -> None:
    """Raise as torch does where tensors on a GPU are mixed with others, or turned into NumPy arrays."""
    if name in ("numpy", "__array__"):
        raise TypeError(f"can't convert {device} device type tensor to numpy. Use Tensor.cpu() first.")
    target = isinstance(args[0], _OnGpu) if args and isinstance(args[0], Tensor) else None
    if name in ("__getitem__", "__setitem__", "index_put_"):
        # Numbers of rows may come from the CPU; what is written may where no numbers of rows say where to.
        indices = [each for each in tree_leaves(args[1]) if isinstance(each, Tensor)]
        written = [each for each in tree_leaves(args[2:]) if isinstance(each, Tensor) and each.dim() > 0]
        mixed = any(isinstance(each, _OnGpu) for each in indices) and not target
        mixed |= bool(indices) and any(isinstance(each, _OnGpu) != target for each in written)
    else:
        # A single number on the CPU goes with anything.
        mixed = any(each.dim() > 0 and not isinstance(each, _OnGpu) for each in tensors)
    if mixed and name not in _COPIES:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found {device} and cpu in {name}."
        )


def _is_device(value: Any) -> bool:
    if isinstance(value, torch.device):
        return True
    return isinstance(value, str) and value.partition(":")[0] in (*_KINDS, "cpu")


def _plain(value: Any) -> Any:
    return _as(Tensor, value) if isinstance(value, _OnGpu) else value


def _as(kind: type[Tensor], tensor: Tensor) -> Tensor:
    """Return the same memory as another kind of tensor; a parameter stays one."""
    other = tensor.detach().as_subclass(kind)
    if isinstance(tensor, nn.Parameter):
        other._is_param = True  # what isinstance looks at
    return other
