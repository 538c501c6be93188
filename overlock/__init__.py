"""OverLoCK for current PyTorch: `import overlock; timm.create_model("overlock_t")`."""

from overlock.inference.fold import deploy
from overlock.loss import AuxiliaryLoss
from overlock.model import OverLoCK, set_backend
from overlock.onnx import export_onnx
from overlock.pyramid import OverLoCKPyramid
from overlock.variants import VARIANTS, overlock_b, overlock_s, overlock_t, overlock_xt

__version__ = "0.1.0"

__all__ = [
    "VARIANTS",
    "AuxiliaryLoss",
    "OverLoCK",
    "OverLoCKPyramid",
    "__version__",
    "deploy",
    "export_onnx",
    "overlock_b",
    "overlock_s",
    "overlock_t",
    "overlock_xt",
    "set_backend",
]
