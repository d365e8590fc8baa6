"""Whether an error means that memory ran out: each library under torch says so in words of its own."""

import torch

__all__ = ["is_out_of_memory"]

_WORDS = (
    "can't allocate memory",  # torch's allocator for CPUs
    "Cannot allocate memory",  # the system, asked to map a file
    "not enough memory",
    "out of memory",  # CUDA's driver
    "ALLOC_FAILED",  # cuBLAS and cuDNN
    "could not create a primitive",  # oneDNN, without room for a convolution's buffers
    "could not create a memory",
    "can't start new thread",  # Python, without room for a stack
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory, of the device or of this machine, was what was lacking."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
