"""Build what is compiled: every ext/<name>.pyx becomes gateway._native.<name>, the core; every load/<name>.pyx and
bench/floor/<name>.pyx becomes gateway._load.<name>: the swarm and the floors it is measured against.

GATEWAY_BUILD selects the flavour: release (default), trace, asan or tsan; `none` leaves the compiled core out, for an
editable install whose core is built in place (see .ci/setup).
Sanitizer flavours build into their own tree (see `make test-asan`), so a release build is never overwritten.
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
FLAVOUR = os.environ.get("GATEWAY_BUILD", "release")
CFLAGS = {
    "release": ["-O3", "-g1"],
    "trace": ["-O0", "-g", "-DCYTHON_TRACE_NOGIL=1"],
    "asan": ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"],
    "tsan": ["-O1", "-g", "-fsanitize=thread"],
    "none": [],
}
if FLAVOUR not in CFLAGS:
    sys.exit(f"GATEWAY_BUILD={FLAVOUR!r} is not a build flavour; choose one of {', '.join(CFLAGS)}")
FLAGS = CFLAGS[FLAVOUR]
#: the system's libraries by the module that needs them
LIBRARIES = {"tls": ["ssl", "crypto"], "tls_context": ["ssl", "crypto"], "records": ["crypto"]}

# Cython resolves `from gateway._native.x cimport y` by folder; these links name flat folders at compile time.
for package, folder in (("_native", "ext"), ("_load", "load")):
    alias = ROOT / "build" / "cimport" / "gateway" / package
    alias.parent.mkdir(parents=True, exist_ok=True)
    if not alias.is_symlink():
        alias.symlink_to(Path("..", "..", "..", folder))


def extension(name: str, source: str, package: str = "gateway._native") -> Extension:
    return Extension(
        f"{package}.{name}",
        [source],
        include_dirs=["ext/include", "load"],
        depends=[str(h) for folder in ("ext/include", "load") for h in sorted(Path(folder).glob("*.h"))],
        libraries=LIBRARIES.get(name, []),
        extra_compile_args=["-std=gnu11", "-Wall", "-Wno-unused-function", *FLAGS],
        extra_link_args=[f for f in FLAGS if f.startswith("-fsanitize")],
    )


modules = [extension(p.stem, f"ext/{p.name}") for p in sorted(Path("ext").glob("*.pyx"))]
for folder in ("load", "bench/floor"):
    modules += [extension(p.stem, f"{folder}/{p.name}", "gateway._load") for p in sorted(Path(folder).glob("*.pyx"))]
if FLAVOUR == "none":
    modules = []
shared = None if FLAVOUR == "trace" else "gateway._native._cyutility"
if shared and modules:
    modules.append(extension("_cyutility", f"build/cython-{FLAVOUR}/_cyutility.c"))

setup(
    ext_modules=cythonize(
        modules,
        include_path=["build/cimport"],
        # Cython.Coverage only finds .c files that lie beside their .pyx.
        build_dir=None if FLAVOUR == "trace" else f"build/cython-{FLAVOUR}",
        shared_utility_qualified_name=shared,
        emit_linenums=FLAVOUR in ("asan", "tsan"),
        compiler_directives={
            "language_level": 3,
            "freethreading_compatible": True,
            "auto_pickle": False,
            "linetrace": FLAVOUR == "trace",
        },
    )
)
