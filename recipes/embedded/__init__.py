"""How the embedded pair was trained: `python -m recipes.embedded --help`.

Each stage is a module that writes checkpoints into one working folder and prints figures on held-out scenes:
scene_cache (draws the training scenes), vision_stage (vision tower and projector), language_stage (the base MLLM, then a LoRA
adapter and the projector on the dialogue of protocol/), and, independent of these, sam_stage. All use seeds 0 to 35,999, of
which the last 500 are held out for the figures. After them, domain_stage measures which images the vision tower knows. The test
split is never used.

The weights in the package came from these stages, but not from one uninterrupted run of the command:
- Base: the auxiliary losses were added during training (the first 250 steps had the one on image attention but not the one on
  word attention, the first 500 had no probe). The learning rate fell to a tenth by step 1,500 and started again at a quarter
  for 650 more steps, in which the hardest kinds of expression were drawn twice as often.
- Adapter: 600 steps on the dialogue alone; then 800, 520, 400 and 280 steps, at half to three quarters of the learning rate,
  with the additional questions: whether a box is what is meant, what else is meant, what is at a point. Expressions by colour
  alone and "what is at" came in the last two.
- Segment Anything: boxes with up to twice the jitter for 2,500 steps, up to four times for 700, up to six times for 1,200.
  Points far from edges and clicks without a box came in the last 1,900 steps, at a half and a third of the learning rate.

The command's defaults are the same numbers of steps with everything from the start. calibration.json is what
`sam4mllm evaluate --calibrate` fits to a run of `--method adaptive` over 200 scenes from seed 950,000
(`sam4mllm data scenes --count 200 --seed 950000`), none of which is trained on or reported.
domain.json is what the stage `domain` writes from the weights in the package.
trained_images.json names the scenes of the seeds above as `sam4mllm data scenes` names their files: `evaluate` warns of them.
"""
