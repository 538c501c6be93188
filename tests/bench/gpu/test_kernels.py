"""The report of where the time goes."""

from __future__ import annotations

import pytest

from bench.gpu.kernels import kind_of, report


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("shared_kernel", "ContMix"),
        ("depthwise_kernel", "large depthwise, Triton"),
        ("depthwise_last_kernel", "large depthwise, Triton"),
        ("place_kernel", "large depthwise, Triton"),
        ("norm_kernel", "fusions, Triton"),
        ("up_kernel", "fusions, Triton"),
        ("void conv_depthwise2d_forward_kernel_generic<c10::BFloat16, int>(...)", "depthwise"),
        ("void at::native::vectorized_elementwise_kernel<8, GeluCUDAKernelImpl...>", "GELU, SiLU"),
        ("void at::native::reduce_kernel<512, 1, ...MeanOps>", "reductions"),
        ("void at::native::elementwise_kernel<128, 4, CUDAFunctor_add<c10::BFloat16>>", "elementwise"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_TNT", "products and convolutions"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16", "products and convolutions"),
        ("something", "other"),
    ],
)
def test_kinds_of_kernels(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind


def test_report() -> None:
    text = report({"shared_kernel": 0.001, "gelu_kernel": 0.003}, {"shared_kernel": 12, "gelu_kernel": 24})
    assert text.startswith("36 launches, 4.00 ms of kernels a call")
    kinds = [line for line in text.splitlines() if line.startswith(("| GELU", "| ContMix"))]
    assert [line.split("|")[1].strip() for line in kinds] == ["GELU, SiLU", "ContMix"], "the longest first"
    assert "75.0%" in kinds[0]
