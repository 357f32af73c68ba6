"""The one compiled part: machine/cpu/native.c, a shared object that needs a C compiler, not Python's headers."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "machine.cpu._native",
            sources=["machine/cpu/native.c"],
            extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra"],
            libraries=["dl"],
        )
    ]
)
