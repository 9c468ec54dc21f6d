"""The inner loops in C, compiled where there is a compiler; all else is in pyproject.toml."""

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = "modelscope_zipenhancer/runtime/cpu/native"


class BuildLibrary(build_ext):
    """A shared library that ctypes opens: no module of Python, and so none of its headers or functions."""

    def build_extension(self, ext):
        if self.compiler.compiler_type != "msvc":
            ext.extra_compile_args = ["-O3", "-g0", "-std=c11", "-fvisibility=hidden"]
        super().build_extension(ext)

    def get_export_symbols(self, ext):
        return ext.export_symbols  # else PyInit__kernels, which Windows' linker would miss


if __name__ == "__main__":  # ModelScope may import every .py of a model dir
    kernels = Extension(
        "modelscope_zipenhancer.runtime.cpu.native._kernels",
        [f"{NATIVE}/src/{name}.c" for name in ("avx2", "avx512", "avx512bf16", "neon", "processor")],
        depends=[
            f"{NATIVE}/src/{name}.h"
            for name in ("convolution", "functions", "kernels", "layer", "product", "simd")
        ],
        optional=True,  # without a compiler PyTorch's operations do the work
        py_limited_api=True,
    )
    setup(
        ext_modules=[kernels],
        cmdclass={"build_ext": BuildLibrary},
        options={"bdist_wheel": {"py_limited_api": "cp310"}},
    )
