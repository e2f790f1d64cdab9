import sys

import pytest

from demur.core.memory import keep_freed_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_can_be_kept_more_than_once():
    assert keep_freed_memory() == keep_freed_memory()
