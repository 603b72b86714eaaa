"""The guest's Python: the interpreter from its unpacked packages, and just those modules that the workload imports.

Which these are differs from one version of Python to the next, so the interpreter itself is asked: it runs on the
host, by its own loader and with its own libraries, imports the workload, and compiles what it imported, since
compiling would be most of the start-up in the guest.
"""

from __future__ import annotations

from pathlib import Path

from bascule.errors import Refused
from bascule.lab.guest_apt import run
from bascule.lab.guest_cpio import Node, file

SOURCES = Path(__file__).parent / "guest"
_LIBRARY_FOLDERS = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
_LOADER = "ld-linux-x86-64.so.2"
_NOEXEC = "is the cache on a filesystem mounted noexec? Choose another"
# Prints the source files that `workload` imports, in the host's paths; arguments: pairs of host and guest folder.
_COLLECT = """
import sys
folders = list(zip(sys.argv[1::2], sys.argv[2::2]))
sys.path.insert(0, sys.argv[1])
import bascule.lab.guest.workload
specs = [m.__spec__ for m in list(sys.modules.values()) if getattr(m, "__spec__", None)]
files = sorted({spec.origin for spec in specs if spec.has_location and spec.origin.endswith(".py")})
import py_compile
for file in files:
    guest = next(there + file[len(here):] for here, there in folders if file.startswith(here))
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(file, dfile=guest, doraise=True, invalidation_mode=mode)
print(*files, sep="\\0", end="")
"""


def nodes(tree: Path, staging: Path) -> dict[str, Node]:
    """Interpreter, libraries and modules for the guest, from the packages in `tree`; `staging` is a scratch folder.

    Raises `Refused` if the interpreter cannot be run, or if the workload imports what is not there.
    """
    python = next((path for path in tree.glob("usr/bin/python3.*") if path.name.count(".") == 1), None)
    if python is None:
        raise Refused("cannot build the guest image: Python's package holds no interpreter")
    # Debian's lib64 has an absolute link, which would lead to the host's.
    loader = next(path for path in tree.rglob(_LOADER) if not path.is_symlink())
    search = ":".join(str(tree / folder) for folder in _LIBRARY_FOLDERS)
    execute = [str(loader), "--inhibit-cache", "--library-path", search]
    libraries = _libraries(tree, run([*execute, "--list", str(python)], remedy=_NOEXEC))

    _stage_sources(staging / "bascule")
    folders = {str(staging): "usr/lib/bascule", str(tree): ""}
    pairs = [word for here, there in folders.items() for word in (here, f"/{there}".rstrip("/"))]
    environment = {"PYTHONHOME": str(tree / "usr"), "PYTHONHASHSEED": "0", "LC_ALL": "C"}
    listing = run([*execute, str(python), "-S", "-c", _COLLECT, *pairs], env=environment, remedy=_NOEXEC)
    content = {
        "usr/bin/python3": file(python.read_bytes(), executable=True),
        f"lib64/{_LOADER}": file(loader.read_bytes(), executable=True),
        # Python looks for this folder, and complains if it is not there.
        f"usr/lib/{python.name}/lib-dynload/.keep": file(b""),
    }
    for library in libraries:
        content[f"{_LIBRARY_FOLDERS[0]}/{library.name}"] = file(library.read_bytes())
    for source in map(Path, listing.split("\0")):
        here = next(here for here in folders if source.is_relative_to(here))
        compiled = next((source.parent / "__pycache__").glob(f"{source.stem}.*.pyc"))
        for path in (source, compiled):
            content[str(Path(folders[here]) / path.relative_to(here))] = file(path.read_bytes())
    return content


def _libraries(tree: Path, listing: str) -> list[Path]:
    """The libraries in the loader's `listing` of what a program needs: "libm.so.6 => /path (0x...)"."""
    needed = [line.split() for line in listing.splitlines() if "=>" in line]
    paths = {words[0]: Path(words[2]) for words in needed if _LOADER not in words[0]}
    strangers = [name for name, path in paths.items() if not path.resolve().is_relative_to(tree.resolve())]
    if strangers:
        raise Refused(f"cannot build the guest image: no package chosen holds {', '.join(strangers)}")
    return list(paths.values())


def _stage_sources(package: Path) -> None:
    """Lay out the guest's own modules under the names by which they import each other."""
    modules = package / "lab" / "guest"
    modules.mkdir(parents=True)
    # These two have nothing that the guest could use.
    for folder in (package, package / "lab"):
        (folder / "__init__.py").touch()
    for source in SOURCES.glob("*.py"):
        (modules / source.name).write_bytes(source.read_bytes())
