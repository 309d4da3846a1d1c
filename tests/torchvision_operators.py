"""Declares the operators of a torchvision that was built for CUDA, where torch is built for the CPU: import it for that.

Such a torchvision can't load its operators, and importing it fails unless they are at least declared. Image processors only
resize, which needs none.
"""

from importlib.metadata import version
from importlib.util import find_spec

import torch

if find_spec("torchvision") is not None and "+cpu" in torch.__version__ and "+cpu" not in version("torchvision"):
    _declared = torch.library.Library("torchvision", "DEF")
    _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
