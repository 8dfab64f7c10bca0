"""Trains, checks and stores the models that come with jaxcv.

  python -m experiments.pretrained --workdir=runs/pretrained
  python -m experiments.pretrained --workdir=runs/pretrained --only=curves
  python -m experiments.pretrained --check

Each model is trained by its experiment, in a process and a work folder of its own; the same command
resumes. Its file and its card go to jaxcv/pretrained/, its metrics are printed beside those of the
model before. A model that is worse by more than the interval of its headline metric is refused
unless --force is given; so is one without a baseline, or above 3 MB. --check evaluates the stored
models on 64 samples that no training has seen, and fails where one is worse than its card says.
"""
