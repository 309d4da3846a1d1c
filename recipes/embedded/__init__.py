"""How the embedded pair was trained: `python -m recipes.embedded --help`.

The stages, each a module that checkpoints into one working folder and prints held-out figures:
world (draw and cache the training scenes) -> eyes (vision tower and projector) -> language (the base MLLM, then LoRA and
projector: the dialogue of protocol/), and, independent of them, sam. All draw on seeds 0 to 35,999, of which the last 500 are
held out for the figures; the test split is never touched.

The weights in the package came from these stages, not from one uninterrupted run of the command: guides were added while the
base was learning (its first 250 steps were taught where to look but not which words to read, its first 500 had no probe), its
rate fell to a tenth by step 1,500 and began again at a quarter for 650 more, in which the hardest kinds were drawn twice as
often. The adapter learnt the dialogue alone for 600 steps, then, in four goes at half to three quarters of the rate, 800,
520, 400 and 280 more with the questions that are asked beside it: whether a box is what is meant, what else is, what is
there; colour alone and what is there came in the last two. Segment Anything saw boxes of up to twice the jitter for 2,500
steps, of up to four times for 700 and of up to six times for 1,200; points far from edges and clicks without a box came in
the last 1,900, at half and at a third of the rate. The command's defaults are that number of steps with everything from the
start. calibration.json is what `sam4mllm evaluate --calibrate` fits to a run of `--method adaptive` over 200 scenes from seed
950,000 (`sam4mllm data scenes --count 200 --seed 950000`), none of which is trained on or reported.
"""
