"""Kills trainings at random moments, lets the same command go on, and compares every file.

python -m tests.experiments.kill_campaign --kills=200 --folder=runs/kills [--seed=0] [--only=toy]

A kill is SIGKILL, SIGTERM or Ctrl-C after a random share of the undisturbed time, in compiling,
steps, saves, evaluation or figures. What may differ afterwards: times, and figures that show them.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
TOY = pathlib.Path(__file__).with_name("toy_experiment.py")
# Small trainings of each experiment: several checkpoints, an evaluation, figures.
COMMANDS = {
    "toy": ("--steps=200",),
    "robust_mean": (
        "--steps=60", "--num_seeds=2", "--optimizer=asgd", "--optimizer=adam",
        "--protocol=released", "--num_test=8",
    ),
    "robust_mean_minima": (
        "--steps=40", "--num_seeds=2", "--protocol=released", "--num_test=50", "--num_widths=4",
    ),
    "curve_fitting": ("--steps=250", "--num_problems=8", "--num_test=20", "--hidden=4"),
    "tracker_fusion": (
        "--steps=40", "--num_sequences=6", "--num_frames=8", "--num_trackers=3",
        "--batch_size=8", "--strength=0.01",
    ),
    "human_pose": (
        "--steps=6", "--views=2", "--groups=scaling", "--num_subjects=4", "--clips=1",
        "--frames=8", "--num_rotations=8", "--num_components=1", "--batch_size=2",
    ),
    "hand_pose": (
        "--net=1", "--width=0.0625", "--dense=8", "--side=32", "--num_train=24", "--num_test=8",
        "--steps=12", "--batch_size=6",
    ),
    "monocular_stereo": (
        "--size=cpu", "--height=32", "--width=48", "--steps=8", "--num_train=8", "--num_test=2",
        "--iterations=2", "--few=1", "--batch_size=2",
    ),
    "inverse_graphics": (
        "--steps=12", "--num_train=2", "--num_test=5", "--num_images=200", "--identities=4",
    ),
    "relative_pose": (
        "--net=cnnBspp", "--height=40", "--width_px=48", "--full_height=60", "--full_width=80",
        "--num_train=16", "--num_valid=4", "--num_matched=8", "--num_test=4", "--steps=8",
        "--refine_steps=4", "--width=0.05",
    ),
}  # fmt: skip
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Entries of results.json and figures that show times.
TIMED = (
    "second", "minutes", "us_a_", "us_an_", "ms_an_", "per_second",
    # Restarts in the time of one of the network's steps, which is measured.
    "lm_restarts", "lm_screened", "lm/steps_per_iteration", "lm/price_of_a_point",
)  # fmt: skip
TIMED_FIGURES = {
    "human_pose": {"learned.png"}, "hand_pose": {"training.png"}, "monocular_stereo": {"time.png"},
    "curve_fitting": {"solved.png"},
}  # fmt: skip


def command(name, folder):
    """What starts a training."""
    program = [str(TOY)] if name == "toy" else ["-m", f"experiments.{name}"]
    return [sys.executable, *program, *COMMANDS[name], f"--workdir={folder}"]


def environment(cache):
    """Of the trainings: compiled programs are kept, so that they do not take up the time."""
    return os.environ | {
        "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }  # fmt: skip


def finish(name, folder, env):
    """Gives the command until it ends by itself; returns the seconds."""
    start = time.monotonic()
    done = subprocess.run(
        command(name, folder), env=env, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{name}: {done.stderr[-2000:]}"
    return time.monotonic() - start


def _as_in_a_terminal():
    """A shell starts what is in the background deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def killed(name, folder, env, after, number):
    """Sends a signal after some seconds; returns the exit status and what was said."""
    process = subprocess.Popen(
        command(name, folder), env=env, cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, preexec_fn=_as_in_a_terminal,
    )  # fmt: skip
    try:
        text, _ = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        text, _ = process.communicate()
    return process.returncode, text


def contents(name, folder):
    """File -> what must be equal: bytes, digests of checkpoints, results without times."""
    out = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if not path.is_file() or inside.parts[0] in ("checkpoints", ".lock"):
            continue
        if inside.name in TIMED_FIGURES.get(name, ()) or inside.name == "seconds.json":
            out[str(inside)] = "is there" if path.stat().st_size else "is empty"
        elif inside.name == "results.json":
            record = json.loads(path.read_text())
            record.pop("environment")
            metrics = record["metrics"]
            record["metrics"] = {
                key: x for key, x in metrics.items() if not any(word in key for word in TIMED)
            }
            out[str(inside)] = record
        elif inside.name == "config.json":
            out[str(inside)] = json.loads(path.read_text())
        else:
            out[str(inside)] = path.read_bytes()
    for run in sorted((folder / "checkpoints").iterdir()):
        steps = sorted(int(path.name) for path in run.iterdir() if path.name.isdecimal())
        metadata = run / str(steps[-1]) / "metadata" / "metadata"
        out[f"checkpoint of {run.name}"] = steps[-1], json.loads(metadata.read_text())["digest"]
    return out


def differences(name, folder, undisturbed):
    """Names of the files that are not as they should be."""
    one, other = contents(name, folder), contents(name, undisturbed)
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def campaign(kills, folder, seed=0, only=None, report=print):
    """Runs the kills; returns what went wrong, a line each."""
    folder.mkdir(parents=True, exist_ok=True)
    env, rng, failures = environment(folder / "cache"), random.Random(seed), []
    names = [only] if only else list(COMMANDS)
    seconds, counts = {}, collections.Counter()
    for i in range(kills):
        name = names[i % len(names)]
        undisturbed = folder / f"{name}.undisturbed"
        if name not in seconds:
            finish(name, folder / f"{name}.warm", env)  # fills the cache of compiled programs
            seconds[name] = finish(name, undisturbed, env)
        number, share = rng.choice(SIGNALS), rng.uniform(0.05, 1.0)
        workdir = folder / f"{name}.{seed}.{i}"
        status, text = killed(name, workdir, env, share * seconds[name], number)
        label = f"{name} {number.name} at {share:.2f} of {seconds[name]:.0f} s"
        if "Traceback" in text:
            failures.append(f"{label}: traceback: {text[-500:]}")
        if number == signal.SIGINT and status not in (0, 130, -signal.SIGINT):
            failures.append(f"{label}: exit status {status}")
        counts[status] += 1
        try:
            finish(name, workdir, env)
            wrong = differences(name, workdir, undisturbed)
        except (AssertionError, OSError) as error:
            wrong = [str(error)]
        if wrong:
            failures.append(f"{label}: {wrong}")
        report(f"{i + 1} of {kills}: {label}: status {status}, {wrong or 'equal'}", flush=True)
    report(f"exit statuses {dict(counts)}; {len(failures)} failures", flush=True)
    return failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=tuple(COMMANDS))
    arguments = parser.parse_args()
    failed = campaign(arguments.kills, arguments.folder, arguments.seed, arguments.only)
    print("\n".join(failed))
    sys.exit(bool(failed))
