"""Which errors mean that memory ran out, as the libraries word them."""

import pytest
import torch

from nnguide_core.memory_errors import is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError(
            "unable to mmap 3172304 bytes from file <model.safetensors>: Cannot allocate memory (12)"
        ),
        RuntimeError("could not create a primitive"),
        RuntimeError("can't start new thread"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    ],
    ids=str,
)
def test_each_library_says_in_its_own_words_that_memory_ran_out(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), OSError("can't allocate memory"), ValueError()]
)
def test_other_errors_do_not_count_as_out_of_memory(error):
    assert not is_out_of_memory(error)
