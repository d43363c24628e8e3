"""`haechi` with the task `toy` known to every process that it starts:

python -P tests/shared/training/search_runner.py search CONFIG -o DIR --jobs 2
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.shared.training import toy

toy.register()  # here, and not below: a process that is started imports this file, too


def wait_for_another(folder: Path) -> None:
    import shared.training.search  # noqa: F401  (which may take one process much longer than the other)

    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.01)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "TOGETHER" in os.environ:
        wait_for_another(Path(os.environ["TOGETHER"]))
    sys.exit(toy.main(sys.argv[1:]))
