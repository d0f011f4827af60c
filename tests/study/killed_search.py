"""A search in its own process, to be killed: ``python -m tests.study.killed_search FILE BUDGET SECONDS_PER_TRIAL``."""

from __future__ import annotations

import sys
import time

from torch import nn

from pliant.study import search
from tests.study.toy import Toy, error, objectives


def main() -> None:
    path, budget, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])

    def slowly(member: nn.Module) -> float:
        time.sleep(seconds)
        return error(member)

    search(Toy(), objectives(slowly), budget, storage=path)


if __name__ == "__main__":
    main()
