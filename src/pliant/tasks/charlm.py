"""The charlm task: predict the next character of the Python standard library's own source text.

The text is read from the installation at hand: a fixed selection of the library's top-level files in alphabetical
order, at most 4 MB. Each file belongs to one split, by a stable hash of its name: about 80 % train, 10 % validation,
10 % test. Another version of Python has slightly other text, so compare numbers of one interpreter only.
"""

from __future__ import annotations

import functools
import hashlib
import math
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import PliantError, unknown
from .draws import generator

VARIANTS = ("gpt",)

SETTINGS: dict[str, Any] = {
    "batch": 16,
    "steps": 5400,
    "lr": 2.5e-3,
    "weight_decay": 0.05,
    "warmup": 250,
    "unit": "bits",
    "tolerance": 0.15,
    "budget": 40,
    "quick": {"steps": 640, "budget": 12},
}

CONTEXT = 128
CHARACTERS = "".join(map(chr, range(32, 127))) + "\n\t"
UNKNOWN = len(CHARACTERS)
VOCABULARY = UNKNOWN + 1

SPLITS = ("train", "validation", "test")
MOST_BYTES = 4_000_000
WINDOWS = 128  # how many windows `evaluate` reads


def split_of(file_name: str) -> str:
    """Return the split of a file: ``"train"``, ``"validation"`` or ``"test"``, by a stable hash of its name."""
    bucket = int.from_bytes(hashlib.blake2b(file_name.encode(), digest_size=4).digest(), "big") % 10
    return {0: "validation", 1: "test"}.get(bucket, "train")


def files() -> list[Path]:
    """Return the selection: the library's top-level files with a public lower-case name, sorted, up to 4 MB.

    Raises :class:`PliantError` where the interpreter comes without its source.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    chosen, total = [], 0
    for path in sorted(folder.glob("[a-z]*.py"), key=lambda path: path.name):
        total += path.stat().st_size
        if total > MOST_BYTES:
            break
        chosen.append(path)
    if {split_of(path.name) for path in chosen} != set(SPLITS):
        raise PliantError(
            f"the task charlm reads the source of Python's standard library, but found only {len(chosen)} files in "
            f"{folder}: use an interpreter that comes with its library's source"
        )
    return chosen


def encode(text: str) -> Tensor:
    """Return the token of each character as bytes, ``(len(text),)`` of dtype uint8."""
    table = np.full(128, UNKNOWN, dtype=np.uint8)
    table[[ord(character) for character in CHARACTERS]] = np.arange(UNKNOWN)
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    return torch.from_numpy(table[np.minimum(points, 127)])


@functools.cache
def data() -> dict[str, Tensor]:
    """Return the tokens of each split, files one after the other, as uint8."""
    parts: dict[str, list[Tensor]] = {name: [] for name in SPLITS}
    for path in files():
        parts[split_of(path.name)].append(encode(path.read_text(encoding="utf-8", errors="replace")))
    return {name: torch.cat(some) for name, some in parts.items()}


def model(variant: str = "gpt") -> nn.Module:
    """Return a fresh network of 0.82 M parameters; ``"gpt"`` is the only variant."""
    if variant not in VARIANTS:
        raise unknown("variant of the task charlm", variant, VARIANTS)
    from .charlm_gpt import CharGPT

    return CharGPT(vocabulary=VOCABULARY, context=CONTEXT)


def example_args() -> tuple[Tensor]:
    """Return two windows of validation text, ``(2, 128)`` of dtype long."""
    return (data()["validation"][: 2 * CONTEXT].view(2, CONTEXT).long(),)


def _windows(text: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Cut windows at ``starts`` ``(B,)``: the tokens and, one place on, the targets, both ``(B, 128)``."""
    cut = text[starts[:, None] + torch.arange(CONTEXT + 1)].long()
    return cut[:, :-1], cut[:, 1:]


def batches(seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of ``(tokens, targets)``, both ``(16, 128)``, without end, from the ``start``-th on.

    The k-th batch depends on ``seed`` and k only (its windows are drawn at random from the training text), so
    ``batches(seed, k)`` goes on exactly where an interrupted ``batches(seed)`` stopped.
    """
    text, index = data()["train"], start
    while True:
        draw = generator("charlm-batch", seed, index)
        yield _windows(text, torch.randint(0, len(text) - CONTEXT, (int(SETTINGS["batch"]),), generator=draw))
        index += 1


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats of logits ``(B, T, vocabulary)`` and targets ``(B, T)``."""
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


@torch.no_grad()
def evaluate(model: nn.Module, split: str = "validation") -> dict[str, float]:
    """Return ``{"bits_per_char": …}`` over 128 windows spaced evenly through ``"validation"`` or ``"test"``.

    Every character of a window counts, the first ones too, which have little to go by. The network's training mode
    is put back afterwards.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    text = data()[split]
    starts = torch.linspace(0, len(text) - CONTEXT - 1, WINDOWS, dtype=torch.float64).long()
    training = model.training
    model.eval()
    try:
        nats = []
        for some in starts.split(32):
            tokens, targets = _windows(text, some)
            nats.append(float(loss(model(tokens), targets)))
    finally:
        model.train(training)
    return {"bits_per_char": sum(nats) / len(nats) / math.log(2)}
