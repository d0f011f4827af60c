"""What all tests of this folder share."""

from __future__ import annotations

from tests.helpers.onnx_operations import operations_read_once  # noqa: F401
