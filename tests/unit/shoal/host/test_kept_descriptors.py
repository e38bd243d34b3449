"""What the host process keeps for the agent."""

import os
import resource
from collections.abc import Iterator

import pytest

from shoal.common.host_control import MAX_KEPT
from shoal.host.channel import KeptDescriptors


@pytest.fixture
def _many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("_many_descriptors")
def test_a_bounded_number_is_kept() -> None:
    kept = KeptDescriptors()
    read, write = os.pipe()
    try:
        for number in range(MAX_KEPT):
            assert kept.keep(str(number), os.dup(read)) == ""
        one_more = os.dup(read)
        assert "8192 descriptors already" in kept.keep("more", one_more)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(one_more)
        assert kept.keep("7", os.dup(read)) == ""  # in place of the earlier one
    finally:
        for number in range(MAX_KEPT):
            kept.drop(str(number))
        os.close(read)
        os.close(write)
    assert kept.descriptors() == []
