"""Writes README.md of this folder: the table of results, and that of the sources' claims.

python -m experiments.results            # from the records and claims/*.toml
python -m experiments.results --record=runs/tracker_fusion/results.json [--name=tracker_fusion]
"""

import importlib
import json
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import app, flags

from experiments.results import claims
from experiments.runner import records, settings
from jaxcv.io import files

__all__ = ["main", "table"]

RESULTS = pathlib.Path(__file__).parent
PAGE = RESULTS / "README.md"
PARTS = (
    "results",
    "claims",
    "beyond",
)  # what stands between <!-- part: begin --> and <!-- part: end -->


def _rates(m: Mapping[str, Any]) -> str:
    """Of a sweep of learning rates: the best of each method."""
    rows = []
    for key in sorted(key for key in m if key.endswith("/best_rate")):
        name = key.removesuffix("/best_rate")
        over = np.asarray(m[f"{name}/best_rate_loss_over_least"], float)
        within = 100 * m[f"{name}/best_rate_within_10_percent"]
        rows.append(f"{name} {m[key]:g}: {np.median(over):.2f}, {within:.0f}%")
    return (
        "best learning rate: median loss over that of the best fixed width, trainings within 10% "
        f"of it: {'; '.join(rows)}"
    )


def _robust_mean(m: Mapping[str, Any]) -> str:
    if any(key.endswith("/best_rate") for key in m):
        return _rates(m)
    parts = []
    for prefix, title in (("", "released code's data"), ("paper/", "paper's data")):
        if f"{prefix}damped/loss" not in m:
            continue
        rows = []
        for name in ("damped", "undamped"):
            over = np.asarray(m[f"{prefix}{name}/loss_over_least"], float)
            sigma2 = np.asarray(m[f"{prefix}{name}/sigma2"], float)
            rows.append(f"{name} {np.nanmedian(over):.2f} (σ² {np.nanmedian(sigma2):.0f})")
        ratio = np.asarray(m[f"{prefix}undamped_over_damped/largest_gradient"], float)
        best = m[f"{prefix}scan/best_sigma2"]
        parts.append(
            f"{title}: {', '.join(rows)}, best fixed σ² {best:.0f}; largest gradient undamped over "
            f"damped, {np.nanmedian(ratio):.1f}"
        )
    return f"median loss over that of the best fixed width, averaged SGD; {'. '.join(parts)}"


def _robust_mean_minima(m: Mapping[str, Any]) -> str:
    rows = []
    for data in ("released", "paper"):
        named = ("implicit", "expected")
        ends = (f"{name} {np.median(m[f'{data}/{name}/sigma2']):.0f}" for name in named)
        near = " and ".join(str(m[f"{data}/{name}/within"]) for name in named)
        count = len(m[f"{data}/implicit/sigma2"])
        rows.append(f"{data} data: {', '.join(ends)}; {near} of {count} seeds")
    return (
        "median σ² with the implicit gradient and with the loss expected over minima; loss within "
        f"2% of the lowest of all widths: {'. '.join(rows)}"
    )


def _tracker_fusion(m: Mapping[str, Any]) -> str:
    named = ("learned", "undamped", "rbf", "median", "mean", "oracle")
    ious = ", ".join(f"{name} {m[f'{name}/iou']:.3f}" for name in named)
    d = "learned_minus_rbf"
    return (
        f"mean IoU on unseen sequences: {ious}. Learned − RBF {m[f'{d}/iou']:+.3f} "
        f"[{m[f'{d}/low']:+.3f}, {m[f'{d}/high']:+.3f}]"
    )


def _human_pose(m: Mapping[str, Any]) -> str:
    parts = []
    for kind, title in (("multicamera", "4 cameras"), ("monocular", "1 camera")):
        tail = f"/{kind}_mpjpe_mm"
        names = ("baseline_l2", "baseline", "body_model", "body_and_cameras", "l2",
                 "huber_body_model", "huber")  # fmt: skip
        rows = [f"{name} {np.mean(m[name + tail]):.1f}" for name in names if name + tail in m]
        if rows:
            parts.append(f"{title}: {', '.join(rows)}")
    change = "huber_over_baseline/multicamera"
    ends = [m[f"{change}_{end}"] for end in ("low", "high") if f"{change}_{end}" in m]
    interval = f" [{', '.join(f'{100 * end:+.0f}' for end in ends)}]" if ends else ""
    return (
        f"mean joint error on unseen subjects [mm], {'; '.join(parts)}. Huber over baseline, "
        f"4 cameras: {100 * np.mean(m[f'{change}_change']):+.0f}{interval} %"
    )


def _curve_fitting(m: Mapping[str, Any]) -> str:
    parts = []
    for family in ("exponential", "sine", "sinc", "gaussian"):
        rows = []
        for k in (1, 3, 15):
            names = ("learned", "lm", "lm_tuned")
            pair = (m[f"{name}/{family}/energy_median_{k}"] for name in names)
            rows.append(" / ".join(f"{value:.2f}" for value in pair))
        parts.append(f"{family} {', '.join(rows)}")
    solved = [f"{m[f'{name}/sine/solved_15']:.3f}" for name in ("learned", "lm", "lm_tuned")]
    return (
        f"median energy, learned / Levenberg-Marquardt / the same tuned, at iterations 1, 3, 15: "
        f"{'; '.join(parts)}. Sines solved: {' / '.join(solved)}"
    )


def _monocular_stereo(m: Mapping[str, Any]) -> str:
    named = ("constant", "sift", "flow", "init", "lm_prior", "refinement", "lsnet_15")
    names = [name for name in (*named, "lsnet_upscaled") if f"{name}/l1_inv" in m]
    columns = ("l1_inv", "sc_inv", "l1_rel", "rotation_deg", "translation_deg")
    forms = (".4f", ".3f", ".3f", ".2f", ".1f")
    rows = [
        f"{name} "
        + " / ".join(
            format(np.mean(m[f"{name}/{c}"]), f) for c, f in zip(columns, forms, strict=True)
        )
        for name in names
    ]
    return (
        "L1-inv / sc-inv / L1-rel / rotation [°] / direction of translation [°] on unseen rooms: "
        + "; ".join(rows)
    )


def _hand_pose(m: Mapping[str, Any]) -> str:
    tail = "/unseen_mean_error_mm"
    names = [key.removesuffix(tail) for key in m if key.endswith(tail)]
    rows = [f"{name} {m[f'{name}/mean_error_mm']:.1f} / {m[name + tail]:.1f}" for name in names]
    return f"mean joint error on seen / other subjects [mm]: {'; '.join(rows)}"


def _inverse_graphics(m: Mapping[str, Any]) -> str:
    tail = "/reconstruction_mse"
    names = [key.removesuffix(tail) for key in m if key.endswith(tail)]
    factors = [k.split("corr2_")[1] for k in m if k.startswith(f"{names[0]}/corr2_")]
    factors = [name for name in factors if not name.endswith(("_of_seeds", "_low", "_high"))]
    rows = []
    for name in names:
        if f"{name}/mig" not in m:  # the mean image
            rows.append(f"{name} {m[name + tail]:.4f}")
            continue
        gains = (m[f"{name}/gain_{f}"] for f in factors)
        gains = ("none" if gain is None else f"{gain:.2f}" for gain in gains)  # of a dead code
        pairs = (f"{m[f'{name}/corr2_{f}']:.2f} / {g}" for f, g in zip(factors, gains, strict=True))
        rows.append(f"{name} {', '.join(pairs)}; {m[name + tail]:.4f}")
    return (
        f"corr² of the entry / gain of novel views for {', '.join(factors)}; squared error of "
        f"reconstruction: {'. '.join(rows)}"
    )


def _relative_pose(m: Mapping[str, Any]) -> str:
    tail = "/textured/failures"
    rows = []
    for name in (key.removesuffix(tail) for key in m if key.endswith(tail)):
        parts = []
        for regime in ("textured", "textureless"):
            if f"{name}/{regime}/failures" in m:
                own = (m[f"{name}/{regime}/{k}"] for k in ("roe_median_deg", "rte_median_deg"))
                angles = " / ".join(f"{x:.1f}" for x in own)
                parts.append(f"{angles} / {100 * m[f'{name}/{regime}/failures']:.0f}%")
        rows.append(f"{name} {', '.join(parts)}")
    return (
        "median error of rotation [°] / of translation's direction [°] / failures with texture, "
        f"without: {'; '.join(rows)}"
    )


def _score_hands(m: Mapping[str, Any]) -> str:
    tail = "/mean_error_mm"
    rows = []
    for name in (key.removesuffix(tail) for key in m if key.endswith(tail)):
        rates = (f"{100 * m[f'{name}/success_{t}mm']:.1f}" for t in (20, 40, 80))
        rows.append(f"{name} {m[name + tail]:.2f}; {' / '.join(rates)}%")
    return f"mean joint error [mm]; frames within 20 / 40 / 80 mm: {'. '.join(rows)}"


NUMBERS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "curve_fitting": _curve_fitting,
    "hand_pose": _hand_pose,
    "human_pose": _human_pose,
    "inverse_graphics": _inverse_graphics,
    "monocular_stereo": _monocular_stereo,
    "relative_pose": _relative_pose,
    "robust_mean": _robust_mean,
    "robust_mean_minima": _robust_mean_minima,
    "score_hands": _score_hands,
    "tracker_fusion": _tracker_fusion,
}


def _is_stale(record: Mapping[str, Any]) -> bool:
    """True if no current preset has the record's settings, apart from paths and the data source.

    A program without presets, which scores files, has no stale records.
    """
    module = importlib.import_module(f"experiments.{record['experiment']}")
    if not hasattr(module, "EXPERIMENT"):
        return False
    experiment = module.EXPERIMENT
    where = {"data": None, "data_dir": None, "cache_dir": None, "init_from": None}
    normal = lambda config: json.loads(json.dumps(config | where))
    presets = experiment.presets.values()
    saved = settings.as_of_today(experiment.config, record["config"])
    return normal(saved) not in [normal(settings.config_to_dict(p)) for p in presets]


def _row(name: str, record: Mapping[str, Any]) -> str:
    text = NUMBERS[record["experiment"]](record["metrics"])
    stale = " **(stale: the preset has changed since)**" if _is_stale(record) else ""
    environment = record["environment"]
    minutes = f"{environment['seconds'] / 60:.1f}"
    anchor = f'<a id="{name}"></a>{name}'
    return f"| {anchor} | `{environment['command']}` | {text}{stale} | {minutes} |"


def table(folder: pathlib.Path = RESULTS) -> str:
    """The table in Markdown, one row per record."""
    rows = ["| experiment | command | result | minutes |", "|---|---|---|---|"]
    for path in sorted(folder.glob("*.json")):
        rows.append(_row(path.stem, json.loads(path.read_text())))
    return "\n".join(rows)


def page(text: str) -> str:
    """The page with its parts made anew."""
    sources = claims.read_sources()
    counts, metrics = claims.count_verdicts(sources), claims.metrics_of_records()
    total = ", ".join(f"{count} *{word}*" for word, count in counts.items())
    made = {
        "results": table(),
        "claims": f"{sum(counts.values())} claims: {total}.\n\n{claims.render(sources, metrics)}",
        "beyond": claims.render_beyond(metrics),
    }
    for part in PARTS:
        begin, end = (f"<!-- {part}: {edge} -->" for edge in ("begin", "end"))
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{made[part]}\n{end}{rest.split(end)[1]}"
    return text


def _checked_record(path: pathlib.Path) -> dict[str, Any]:
    """Reads the record of a training run; raises DataError if the file holds none."""
    expected, hint = (
        "expected the results.json of a training",
        "Give one that `--mode=train` wrote.",
    )
    with records.data_errors():
        record = files.read_json(path, expected, hint=hint)
    try:
        _row("", record)
        command = record["environment"]["command"] or ""
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise records.data_error("record", expected, f"{path} ({error!r})", hint) from error
    if "--mode" in command and "--mode=train" not in command:
        raise records.data_error("record", expected, f"that of {command}", hint)
    return record


def _write(argv: list[str]) -> None:
    del argv
    if flags.FLAGS.record is not None:
        try:
            record = _checked_record(pathlib.Path(flags.FLAGS.record))
        except records.DataError as error:
            sys.exit(f"error: {error}")
        name = flags.FLAGS.name or record["experiment"]
        records.write_json(RESULTS / f"{name}.json", record)
    records.write_text(PAGE, page(PAGE.read_text()))


def main() -> None:
    """Parses the flags, copies the given record into this folder, and writes the table."""
    flags.DEFINE_string("record", None, "A results.json to copy into experiments/results.")
    flags.DEFINE_string("name", None, "Name of the copy; by default that of the experiment.")
    settings.show_in_help(("record", "name"))
    app.run(_write)
