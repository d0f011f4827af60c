"""One of several processes that train together: ``python -m tests.training.worker FOLDER WHAT ...``."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pliant.checks import PliantError
from pliant.family import Family
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from pliant.training import Compute, Progress, sharded, train
from tests.family.nets import ViT, vectors
from tests.training.test_course import Remembers
from tests.training.test_loop import Largest
from tests.training.toy import batch, batches, convnet, loss, mlp, pictures, state

STEPS = 5


def vit(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return Family(ViT(), (vectors(3, 4, 6),), [Width(multiple=4), Depth()])


def sequences(start: int = 0) -> Iterator[Any]:
    while True:
        yield batch(start, (4, 6), 5)
        start += 1


def plain(family: Family) -> torch.optim.Optimizer:
    return torch.optim.SGD(family.parameters(), lr=0.1, momentum=0.9)


MAKERS: dict[str, tuple[Callable[..., Any], Any]] = {
    "mlp": (lambda seed: mlp(seed, dropout=0.0), batches),
    "vit": (vit, sequences),
    "iterable": (lambda seed: mlp(seed, dropout=0.0), itertools.islice(batches(), 2 * STEPS)),
}


def equal(folder: Path, rank: int) -> None:
    """Train with half of the batches each, from weights that differ."""
    for name, (make, data) in MAKERS.items():
        family = make(rank)
        last = train(family, sharded(data), loss, steps=STEPS, optimizer=plain(family))
        save_file(state(family), folder / f"{name}-{rank}.safetensors")
        (folder / f"{name}-{rank}.json").write_text(json.dumps([*last.losses.values(), last.gradient_norm]))
    family = convnet(rank)
    compute = Compute(precision="bfloat16", accumulate=2)
    train(family, sharded(pictures), loss, steps=4, recipe=Remembers(), compute=compute)
    save_file(state(family), folder / f"convnet-{rank}.safetensors")
    alone = mlp(rank)
    train(alone, batches, loss, steps=1, compute=Compute(processes=False))
    save_file(state(alone), folder / f"alone-{rank}.safetensors")
    save_file(state(dropout(folder / "whole", rank)), folder / f"dropout-{rank}.safetensors")
    (folder / f"numbers-{rank}.json").write_text(json.dumps(numbers(folder / "numbers")))


def numbers(folder: Path) -> dict[str, list[float]]:
    """Return the random numbers that batches and forward passes get, in a run that is stopped once."""
    told: dict[str, list[float]] = {"batches": [], "own": []}

    def drawn() -> Iterator[Any]:
        while True:
            x = torch.randn(6, 8)
            told["batches"].append(float(x[0, 0]))
            yield x, torch.zeros(6, dtype=torch.long)

    def once(progress: Progress) -> None:
        if progress.step == 3 and len(told["batches"]) == 3:
            raise ValueError("stopped")

    def noted(outputs: Any, targets: Any) -> Any:
        told["own"].append(float(torch.rand(())))
        return loss(outputs, targets)

    run: dict[str, Any] = {"steps": 4, "recipe": Largest(), "folder": folder, "save_every": 2, "on_step": once}
    for _ in range(2):
        with suppress(ValueError):
            train(mlp(), drawn(), noted, **run)
    return told


def dropout(folder: Path, rank: int, on_step: Callable[[Progress], None] | None = None) -> Family:
    """Train a network with dropout, each process with its own."""
    family: Family = mlp(rank)
    own = folder if rank == 0 else folder.with_name("elsewhere")  # a disk that only the first process writes
    train(family, sharded(batches), loss, steps=8, folder=own, save_every=2, on_step=on_step)
    return family


class Astray(Largest):
    """Draws members by numbers that each process has for itself."""

    def step(self, turn: Any) -> None:
        turn.learn(turn.space.largest() if os.environ["RANK"] == "0" else turn.space.smallest())


class ByLoss(Largest):
    """Decides by a member's loss, to the last bit."""

    def step(self, turn: Any) -> None:
        largest = turn.space.largest()
        turn.learn(largest)
        turn.update()
        turn.learn(turn.space.sample(random.Random(repr(turn.losses[largest]))))


def errors(folder: Path, rank: int) -> None:
    """Run into one error after the other, in one process or in all; then be killed."""

    def poisoned(start: int) -> Iterator[Any]:
        for k, (x, y) in enumerate(batches(start), start):
            yield (x * float("nan") if (k, rank) == (3, 1) else x), y

    def raises(progress: Progress) -> None:
        if rank == 0 and progress.step == 2:
            raise ValueError("evaluated wrongly")

    def full(progress: Progress) -> None:
        if rank == 0 and progress.step == 1:
            shutil.rmtree(folder / "file")
            (folder / "file").write_text("in the way")

    runs: dict[str, dict[str, Any]] = {
        "diverged": {"batches": poisoned},
        "ended": {"batches": [batch(k) for k in range(4 if rank else 9)]},
        "callback": {"batches": batches, "on_step": raises},
        "seeds": {"batches": batches, "seed": rank},
        "recipes": {"batches": batches, "recipe": Astray()},
        "losses": {"batches": sharded(batches), "recipe": ByLoss()},
        "networks": {"batches": batches, "family": convnet() if rank else mlp()},
        "disk": {"batches": batches, "folder": folder / "file" / "under", "save_every": 2, "on_step": full},
        "fine": {"batches": batches},
    }
    told = {}
    for name, settings in runs.items():
        try:
            told[name] = str(train(**{"family": mlp(), "loss": loss, "steps": STEPS} | settings).step)
        except (PliantError, ValueError) as error:
            told[name] = f"{type(error).__name__}: {error}"
    (folder / f"errors-{rank}.json").write_text(json.dumps(told))

    def die(progress: Progress) -> None:
        if progress.step == 5 and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    dropout(folder / "killed", rank, die)


def resume(folder: Path, rank: int) -> None:
    """Go on with the run whose worker was killed."""
    save_file(state(dropout(folder / "killed", rank)), folder / f"resumed-{rank}.safetensors")


def extras(folder: Path, rank: int) -> None:
    """Train under Lightning and under transformers, which have their own ways with several processes."""
    import tests.helpers.torchvision_shim  # noqa: F401  (both import torchvision)

    warnings.simplefilter("ignore")
    from tests.training.test_hf import trained_in_order
    from tests.training.test_lightning import module, rows, trainer

    ours = module(STEPS, seed=rank)
    runs = trainer(folder, max_epochs=1, devices=2, strategy="ddp", use_distributed_sampler=False)
    runs.fit(ours, rows([batch(2 * k + rank) for k in range(STEPS)]))
    save_file(state(ours.course.family), folder / f"lightning-{rank}.safetensors")
    save_file(state(trained_in_order(folder, rank, 2 * STEPS)), folder / f"hf-{rank}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    random.seed(int(os.environ["RANK"]))
    for what in sys.argv[2:]:
        {"equal": equal, "errors": errors, "resume": resume, "extras": extras}[what](
            Path(sys.argv[1]), int(os.environ["RANK"])
        )
