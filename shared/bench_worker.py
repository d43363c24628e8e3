"""The process in which `shared.bench.peak_memory` measures: `python -m shared.bench_worker PATH THREADS PROVIDER BATCH
RUNS`, with the inputs (npz) on stdin or nothing. Prints one line of JSON."""

from __future__ import annotations

import json
import sys

from shared.bench import run_and_count
from shared.errors import HaechiError


def main() -> int:
    try:
        result = run_and_count(sys.argv[1:], sys.stdin.buffer.read())
    except HaechiError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
