"""Memory is laid out by a plan, and kept."""

import pytest

from modelscope_zipenhancer.runtime.cpu.buffers import Scratch


def test_views_are_made_once_and_anew_when_their_memory_has_moved():
    scratch = Scratch()
    small = scratch.views("small", lambda: scratch.take("x", 3))
    assert scratch.views("small", lambda: pytest.fail("made again")) is small
    large = scratch.views("large", lambda: [scratch.take("x", 4), scratch.take("x", 9)])
    assert len({x.data_ptr() for x in large}) == 1, "views of memory that a later one left behind"
    assert scratch.views("small", lambda: scratch.take("x", 3)).data_ptr() == large[0].data_ptr()
