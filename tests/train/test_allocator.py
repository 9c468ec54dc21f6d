"""The allocator keeps what is freed, where it says so."""


def test_keeping_freed_memory_takes_effect_where_it_says_so(run_python):
    program = """
import platform
from modelscope_zipenhancer.train.allocator import keep_freed_memory
print(keep_freed_memory() == (platform.libc_ver()[0] == "glibc"), len(bytearray(200_000_000)))
"""
    assert run_python(program).split() == ["True", "200000000"]
