"""The figure of the benchmarks: time against error for minimisers, ratios for the rest."""

__all__ = ["draw"]

TITLES = {
    "a": "(a) 256 problems of one unknown",
    "b": "(b) 64 regressions of 64 unknowns",
    "c": "(c) an arrow of 12,294 unknowns",
}


def draw(record):
    """Draws the figure of a record of `test_minimisers`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 9), layout="constrained")
    axes = figure.subplots(2, 3)
    for ax, (name, table) in zip(axes[0], record["problems"].items(), strict=True):
        _minimisers(ax, table)
        ax.set_title(f"{TITLES[name]}\n(lower left is better)")
    _bars(axes[1, 0], record["stereo"])
    _unrolling(axes[1, 1], record["unrolling"], "temp_bytes_", "temporary memory [MB]", 1e-6)
    _unrolling(axes[1, 2], record["unrolling"], "ms_", "gradient [ms]", 1)
    return figure


FAMILIES = {  # prefix of a row's name: marker and colour
    "jaxcv newton": ("o", "tab:blue"),
    "jaxcv lbfgs": ("s", "tab:blue"),
    "jaxcv levenberg_marquardt": ("D", "tab:blue"),
    "by hand": ("*", "k"),
    "jaxopt LBFGS, CG": ("x", "tab:orange"),
    "jaxopt LBFGS, unrolled": ("3", "tab:orange"),
    "jaxopt LBFGS, default": ("+", "tab:orange"),
    "jaxopt LM": ("1", "tab:orange"),
    "optimistix BFGS": ("x", "tab:green"),
    "optimistix LBFGS": ("+", "tab:green"),
    "optimistix Newton": ("2", "tab:green"),
    "optimistix LM": ("1", "tab:green"),
}


def _minimisers(ax, table):
    for family, (marker, color) in FAMILIES.items():
        rows = [row for label, row in table.items() if row and label.startswith(family)]
        if rows:
            times = [row["forward_backward_ms"] for row in rows]
            errors = [max(row["gradient_error"], 1e-9) for row in rows]
            ax.plot(times, errors, marker, color=color, ms=9, mew=2, ls="", label=family)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="forward and backward [ms]",
        ylabel="relative error of the gradient",
    )
    ax.margins(0.15)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)


def _bars(ax, row):
    names = {
        "arrow_solve_ms": "jaxcv: arrow solve",
        "normal_equations_ms": "jaxcv: residual and J^T J",
        "scipy_solve_ms": "scipy: sparse solve (COLAMD)",
        "levenberg_marquardt_ms": f"jaxcv: {row['steps']} steps with their Jacobians",
    }
    colors = ["tab:gray" if "scipy" in label else "tab:blue" for label in names.values()]
    bars = ax.barh(list(names.values()), [row[key] for key in names], color=colors)
    ax.bar_label(bars, fmt="%.3g ms", padding=3)
    ax.invert_yaxis()
    ax.margins(x=0.3)
    ax.set(xscale="log", xlabel="[ms]", title="(d) stereo, 128 x 96 depths, float64")


def _unrolling(ax, rows, prefix, label, factor):
    styles = {
        "jaxcv": ("o-", "tab:blue"),
        "checkpointed": ("s--", "k"),
        "plain": ("^:", "tab:gray"),
    }
    for name, row in rows.items():
        style, color = styles[name.split()[0]]
        steps = [int(key.removeprefix(prefix)) for key in row if key.startswith(prefix)]
        values = [factor * row[f"{prefix}{k}"] for k in steps]
        ax.plot(steps, values, style, label=name, color=color)
    title = "(e) gradient through an unrolled solver"
    ax.set(xlabel="steps", ylabel=label, title=title, xscale="log", yscale="log")
    ax.set_xticks(steps, [str(k) for k in steps])
    ax.minorticks_off()
    ax.grid(alpha=0.3)
    ax.legend()
