"""Random draws that depend on a seed and a position only, so that a resumed run can skip ahead."""

from __future__ import annotations

import hashlib

import torch


def generator(*parts: object) -> torch.Generator:
    """Return a CPU generator seeded by ``parts`` (a purpose, a seed, a position …), the same in every process.

    The parts are hashed, so that neighbouring seeds and positions give unrelated draws.
    """
    text = "/".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))
