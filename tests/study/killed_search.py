"""A search to be killed: ``python -m tests.study.killed_search STORAGE BUDGET SECONDS_PER_TRIAL [WORKERS]``."""

from __future__ import annotations

import sys
import time

from torch import nn

from pliant.study import search
from pliant.techniques.search.nsga2 import Nsga2
from tests.study.toy import Toy, error, objectives


def main() -> None:
    path, budget, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    workers = int(sys.argv[4]) if len(sys.argv) > 4 else 1

    def slowly(member: nn.Module) -> float:
        time.sleep(seconds)
        return error(member)

    search(Toy(), objectives(slowly), budget, storage=path, workers=workers, searcher=Nsga2())


if __name__ == "__main__":
    main()
