"""How the embedded pair was trained: `python -m sam4mllm_tool.embedded.train --help`.

The stages, each a module that checkpoints into one working folder and prints held-out figures:
world (draw and cache the training scenes) -> eyes (vision tower and projector) -> language (the base MLLM)
-> adapter (LoRA and projector: the dialogue of protocol/), and, independent of them, sam.
"""
