"""How the embedded pair is trained: `python -m recipes.embedded --help`.

Each stage is a module that writes checkpoints into one working folder and prints figures on held-out scenes:
scene_cache (draws the training scenes), vision_stage (vision tower and projector, on the dense targets of patch_targets),
language_stage (the base MLLM, then a LoRA adapter and the projector on the dialogue of protocol/), and, independent of these,
sam_stage. All use scenes of the everyday world from seed 0 on, of which the last 500 are held out for the figures. After them,
domain_stage measures which images the vision tower knows. The test split is never used.

The weights in the package came from these stages on scenes of seeds 0 to 29,999, in more than one run, which began from the
vision tower of an earlier pair (`--start-from`), of a world of coloured shapes. calibration.json is what `sam4mllm evaluate --calibrate` fitted to a run of `--method adaptive` over 200 scenes from seed 950,000, none of which is
trained on or reported. trained_images.json names the scenes that they were trained on as `sam4mllm data scenes` names their
files: `evaluate` warns of them.
"""
