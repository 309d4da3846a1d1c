"""How the embedded pair is trained: `python -m recipes.embedded --help`.

Each stage is a module that writes checkpoints into one working folder and prints figures on held-out scenes:
scene_cache (draws the training scenes), vision_stage (vision tower and projector, on the dense targets of patch_targets),
language_stage (the base MLLM, then a LoRA adapter and the projector on the dialogue of protocol/), and, independent of these,
sam_stage. All use scenes of the everyday world from seed 0 on, of which the last 500 are held out for the figures. After them,
domain_stage measures which images the vision tower knows. The test split is never used.

The weights in the package are older: they came from these stages as they were in version 0.2, on the scenes of coloured shapes
of seeds 0 to 35,999, in more than one run. Their architecture is in their own config.json. calibration.json is what
`sam4mllm evaluate --calibrate` fitted to a run of `--method adaptive` over 200 scenes from seed 950,000, none of which is
trained on or reported. trained_images.json names the scenes that they were trained on as `sam4mllm data scenes` names their
files: `evaluate` warns of them.
"""
