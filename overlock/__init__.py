"""OverLoCK for current PyTorch: `import overlock; timm.create_model("overlock_t")`."""

from .dense import OverLoCKPyramid
from .folding import deploy
from .model import OverLoCK, set_backend
from .onnx import export_onnx
from .variants import VARIANTS, overlock_b, overlock_s, overlock_t, overlock_xt

__all__ = [
    "VARIANTS",
    "OverLoCK",
    "OverLoCKPyramid",
    "deploy",
    "export_onnx",
    "overlock_b",
    "overlock_s",
    "overlock_t",
    "overlock_xt",
    "set_backend",
]
