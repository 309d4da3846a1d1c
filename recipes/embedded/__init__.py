"""How the embedded pair is trained: `python -m recipes.embedded --help`.

Each stage is a module that writes checkpoints into one working folder and prints figures on held-out scenes:
scene_cache (draws the training scenes), vision_stage (vision tower and projector, on the dense targets of patch_targets),
language_stage (the base MLLM, then a LoRA adapter and the projector on the dialogue of protocol/), and, independent of these,
sam_stage. All use scenes of the everyday world from seed 0 on, of which the last 500 are held out for the figures. After them,
domain_stage measures which images the vision tower knows. The test split is never used.

The weights in the package are older: they came from the stages of version 0.2, on scenes of coloured shapes. Their architecture
is that of their own config.json, so that the package doesn't depend on this recipe.
"""
