"""Decoding of images: what is said of bytes that are none."""

from __future__ import annotations

import pytest

from bench.accuracy.loader import decode


def test_why_bytes_are_no_image_is_the_same_in_every_process() -> None:
    with pytest.raises(OSError, match=r"^no image that Pillow knows$"):
        decode(b"no image")
