"""`make bench`: every benchmark, one after the other. Each also runs alone, with options of its own:
`.venv/bin/python -m benchmarks.inspection --help`, `.venv/bin/python -m benchmarks.compression --help`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import compression, inspection


def main() -> int:
    """Run them all."""
    parser = argparse.ArgumentParser(prog="make bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="write each benchmark's figures there as JSON")
    parser.add_argument("--work", type=Path, help="keep the packages of the compression benchmark here")
    parser.add_argument("--no-install", action="store_true", help="leave out the base install, which needs a registry")
    options = parser.parse_args()
    to_json = (lambda name: ["--json", str(options.json / name)]) if options.json else (lambda _: [])
    kept = ["--work", str(options.work)] if options.work else []
    skipped = ["--no-install"] if options.no_install else []
    return inspection.main([*to_json("inspection.json"), *skipped]) or compression.main(
        [*to_json("compression.json"), *kept]
    )


if __name__ == "__main__":
    sys.exit(main())
