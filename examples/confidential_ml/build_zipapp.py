"""Build the workload: one self-contained Python zip application with the model inside.

The same sources, model and version give the same bytes on every machine: entries are sorted, stored without
compression, and carry a fixed time and mode.

    python examples/confidential_ml/build_zipapp.py OUT.pyz [--version 1.0]
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
SHEBANG = b"#!/usr/bin/env python3\n"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip entry can carry."""
MODE = 0o100644


def main() -> None:
    """Write the application named on the command line."""
    parser = argparse.ArgumentParser(description="Build the digits classifier as a zip application.")
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument("--version", default="1.0", help="version that the application states in VERSION")
    arguments = parser.parse_args()
    build(arguments.out, version=arguments.version)
    print(f"{arguments.out}: version {arguments.version}, {arguments.out.stat().st_size} bytes")


def build(out: Path, *, version: str) -> None:
    """Write the zip application and make it executable.

    Args:
        out: File to write; replaced if it exists.
        version: Text of the entry ``VERSION``.
    """
    entries = {path.name: path.read_bytes() for path in (HERE / "app").glob("*.py")}
    entries |= {f"model/{path.name}": path.read_bytes() for path in (HERE / "model").iterdir()}
    entries["VERSION"] = f"{version}\n".encode()
    with out.open("wb") as file:
        file.write(SHEBANG)
        with zipfile.ZipFile(file, "w", compression=zipfile.ZIP_STORED) as archive:
            for name in sorted(entries):
                entry = zipfile.ZipInfo(name, date_time=EPOCH)
                entry.create_system = 3  # Unix, wherever it is built: the mode below is read as Unix's
                entry.external_attr = MODE << 16
                archive.writestr(entry, entries[name])
    out.chmod(0o755)


if __name__ == "__main__":
    main()
