"""What ran is named by the operators that a profiler saw."""

from __future__ import annotations

from bench.profile.paths import depthwise_path


def test_the_library_of_convolutions() -> None:
    shares = {
        "overlock::dynamic_conv_block": 0.6,
        "mkldnn::_convolution_pointwise": 0.2,
        "overlock::rep_conv_block": 0.1,
    }
    assert depthwise_path(shares) == "C kernels, oneDNN, fused"
    assert depthwise_path({"aten::mkldnn_convolution": 1.0}) == "oneDNN"
    assert depthwise_path({"aten::add": 1.0}) == ""
