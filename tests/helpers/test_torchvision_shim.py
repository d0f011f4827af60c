from __future__ import annotations

import importlib.util

import torch

from tests.helpers import torchvision_shim


def test_torchvision_works_and_a_second_import_does_nothing_more() -> None:
    spec = importlib.util.spec_from_file_location("second_shim", torchvision_shim.__file__)
    assert spec is not None
    assert spec.loader is not None
    second = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(second)
    assert second.LIBRARY is None

    import torchvision

    with torch.no_grad():
        assert torchvision.models.mobilenet_v3_small().eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
    assert hasattr(torch.ops.torchvision, "nms")
