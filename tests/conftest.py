from importlib.metadata import version
from importlib.util import find_spec

import torch
from hypothesis import settings

settings.register_profile("patient", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("patient")

if find_spec("torchvision") is not None and "+cpu" in torch.__version__ and "+cpu" not in version("torchvision"):
    # A torchvision built for CUDA beside a torch that is not: its operators can't be loaded, and its import fails unless they
    # are at least declared. Processors only resize, which is Python.
    _declared = torch.library.Library("torchvision", "DEF")
    _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
