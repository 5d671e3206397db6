"""Weights lie on large pages where the system has them, at the same addresses and with the same numbers."""

import re
from pathlib import Path

import pytest
import torch

from rlhf.machine.huge_pages import PAGE, WORTHWHILE, _spans, use_huge_pages

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def huge_bytes(tensor):
    """Of the mapping in which the tensor begins."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= tensor.data_ptr() < int(found[2], 16)
        elif inside and line.startswith("AnonHugePages"):
            return int(line.split()[1]) * 1024
    return 0


@pytest.mark.skipif(
    not ENABLED.exists() or "[never]" in ENABLED.read_text(), reason="no large pages on this system"
)
def test_large_weights_move_to_large_pages_where_they_lie():
    weights = torch.arange(2 * WORTHWHILE // 4, dtype=torch.int32)
    address, before = weights.data_ptr(), weights.clone()
    use_huge_pages([weights])
    assert weights.data_ptr() == address and torch.equal(weights, before)
    assert huge_bytes(weights) >= WORTHWHILE


def test_neighbours_are_asked_for_together_and_small_ones_not_at_all():
    whole = torch.empty(3 * PAGE, dtype=torch.uint8)
    spans = _spans([whole[:5], whole[PAGE : PAGE + 5], whole[2 * PAGE :]])
    [(start, end)] = spans
    assert start <= whole.data_ptr() and whole.data_ptr() + len(whole) <= end
    assert start % PAGE == end % PAGE == 0 and end - start <= len(whole) + 2 * PAGE
    before = huge_bytes(whole)
    use_huge_pages([whole[: 2 * PAGE]])
    assert huge_bytes(whole) == before
