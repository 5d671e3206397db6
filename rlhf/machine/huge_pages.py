"""Large pages under weights that are read again for every token.

With pages of 4 KiB a processor looks up 66,000 addresses to read 270 MB, on a virtual machine each in two tables. Linux
gives pages of 2 MiB to those who ask (`madvise`); elsewhere nothing happens.
"""

import ctypes
import sys
from collections.abc import Iterable

from torch import Tensor

PAGE = 2**21
HUGE_PAGE, COLLAPSE = 14, 25  # MADV_HUGEPAGE and MADV_COLLAPSE of Linux; the second from 6.1 on
WORTHWHILE = 2**25  # bytes; less stays in the processor's caches


def use_huge_pages(tensors: Iterable[Tensor]) -> None:
    """Move what CPU tensors hold to large pages where it lies, so that their addresses stay; where the system refuses, they stay.

    Does nothing for less than WORTHWHILE bytes together.
    """
    spans = _spans(tensor for tensor in tensors if tensor.device.type == "cpu")
    if sys.platform != "linux" or sum(end - start for start, end in spans) < WORTHWHILE:
        return
    libc = ctypes.CDLL(None)
    for start, end in spans:
        for advice in (HUGE_PAGE, COLLAPSE):
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), advice)


def _spans(tensors: Iterable[Tensor]) -> list[tuple[int, int]]:
    """Addresses from and up to which whole large pages hold the tensors; neighbours are one."""
    spans: list[tuple[int, int]] = []
    for start, size in sorted((tensor.data_ptr(), tensor.nbytes) for tensor in tensors):
        first, last = start // PAGE * PAGE, -(-(start + size) // PAGE) * PAGE
        if spans and first <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(last, spans[-1][1])
        else:
            spans.append((first, last))
    return spans
