"""A page with a slider for each factor that shows decoded images, in one file."""

import base64
import io
import itertools
import json
from typing import Any

import numpy as np

from experiments.inverse_graphics import evaluation

__all__ = ["page", "shown"]

PEOPLE = 4
STEPS = {1: (37,), 3: (13, 9, 9)}  # positions of each slider, by the number of sliders
DEGREES = 180 / np.pi


def shown(data: Any, count: int) -> list[int]:
    """Indices of `count` test images, each of another head or chair."""
    who = data.images.factors[:, -1]
    return [int(np.flatnonzero(who == k)[0]) for k in np.unique(who)[:count]]


def page(config: Any, data: Any, trained: Any) -> str:
    """Self-contained HTML: sliders for the scene's entries, and a choice of test images.

    All images are decoded beforehand: in the code of a test image, the scene's entries are set to
    the values that the fitted scale gives for the angles of the sliders.
    """
    method = config.method[0]
    params, network = evaluation.network_of(config, trained, method, 0)
    codes = evaluation.codes_of(config, data, trained, method, 0)
    scale = evaluation.scale_of(trained, method, 0)
    entries = data.test.entries
    ends = data.largest()[:entries]
    angles = [np.linspace(-end, end, n) for end, n in zip(ends, STEPS[entries], strict=True)]
    grid = np.array(list(itertools.product(*angles)))  # (G, E)
    people = []
    for one in shown(data, PEOPLE):
        code = codes.images[one]
        own = np.repeat(code[None], len(grid), axis=0)
        own[:, :entries] = (grid - np.asarray(scale.offset)) / np.asarray(scale.slope)
        made = evaluation.decode(params, own, network)
        found = np.asarray(scale.offset) + np.asarray(scale.slope) * code[:entries]
        people.append(
            {
                "sheet": _sheet(made),
                "image": _sheet(data.images.images[one][None] / 255),
                "found": [round(DEGREES * float(x), 1) for x in found],
            }
        )
    facts = {
        "side": network.size.image,
        "columns": _columns(len(grid)),
        "names": data.test.names[:entries],
        "angles": [[round(DEGREES * float(x), 1) for x in each] for each in angles],
        "people": people,
    }
    return _PAGE.replace("@TITLE@", f"{method}, {config.data}").replace(
        "@FACTS@", json.dumps(facts)
    )


def _columns(count: int) -> int:
    return int(np.ceil(np.sqrt(count)))


def _sheet(images: np.ndarray) -> str:
    """Images (N, S, S) side by side in one picture, as a data URL."""
    from PIL import Image

    count, side, _ = images.shape
    columns = _columns(count)
    rows = -(-count // columns)
    whole = np.ones((rows * columns, side, side))
    whole[:count] = images
    whole = whole.reshape(rows, columns, side, side).swapaxes(1, 2)
    pixels = np.round(255 * whole.reshape(rows * side, columns * side)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@TITLE@</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 46rem; padding: 0 1rem;
         color: #222; background: #fff; }
  h1 { font-size: 1.3rem; margin: 0 0 .3rem; }
  p { margin: .2rem 0 1rem; color: #555; }
  main { display: flex; flex-wrap: wrap; gap: 2rem; align-items: flex-start; }
  canvas { width: 20rem; height: 20rem; border: 1px solid #ccc; image-rendering: auto; }
  fieldset { border: 0; padding: 0; margin: 0 0 1rem; min-width: 16rem; }
  label { display: flex; justify-content: space-between; margin-top: .8rem; }
  output { font-variant-numeric: tabular-nums; color: #555; }
  input[type=range] { width: 100%; }
  .people { display: flex; gap: .5rem; }
  .people button { padding: 2px; border: 2px solid transparent; background: none; cursor: pointer; }
  .people button[aria-pressed=true] { border-color: #06c; }
  .people img { display: block; width: 4rem; height: 4rem; }
</style>
</head>
<body>
<h1>Inverse graphics: @TITLE@</h1>
<p>Choose an image of the test. The network has read its code from it; the sliders set the entries
of the scene, and the picture is decoded from the rest of the code and those.</p>
<main>
<canvas id="view" aria-label="decoded image"></canvas>
<div>
<div class="people" id="people"></div>
<fieldset id="sliders"></fieldset>
<button id="reset" type="button">As found in the image</button>
</div>
</main>
<script>
"use strict";
const facts = @FACTS@;
const view = document.getElementById("view"), draw = view.getContext("2d");
view.width = view.height = facts.side;
let person = 0;
const position = facts.angles.map(a => (a.length - 1) >> 1);
const sheets = facts.people.map(p => {
  const image = new Image();
  image.addEventListener("load", () => show());
  image.src = p.sheet;
  return image;
});
const nearest = (list, x) =>
  list.reduce((best, y, i) => Math.abs(y - x) < Math.abs(list[best] - x) ? i : best, 0);
const inputs = facts.names.map((name, k) => {
  const label = document.createElement("label"), output = document.createElement("output");
  const input = document.createElement("input");
  input.type = "range"; input.min = 0; input.max = facts.angles[k].length - 1; input.id = name;
  label.htmlFor = name; label.append(name, output);
  input.addEventListener("input", () => { position[k] = +input.value; show(); });
  document.getElementById("sliders").append(label, input);
  return {input, output};
});
const buttons = facts.people.map((p, i) => {
  const button = document.createElement("button"), image = document.createElement("img");
  button.type = "button"; image.src = p.image; image.alt = `image ${i + 1}`;
  button.append(image);
  button.addEventListener("click", () => { person = i; asFound(); });
  document.getElementById("people").append(button);
  return button;
});
function asFound() {
  facts.people[person].found.forEach((x, k) => { position[k] = nearest(facts.angles[k], x); });
  show();
}
function show() {
  let at = 0;
  position.forEach((p, k) => { at = at * facts.angles[k].length + p; });
  inputs.forEach(({input, output}, k) => {
    input.value = position[k];
    output.textContent = `${facts.angles[k][position[k]].toFixed(0)}\\u00b0`;
  });
  buttons.forEach((b, i) => b.setAttribute("aria-pressed", i === person));
  const s = facts.side, x = at % facts.columns, y = Math.floor(at / facts.columns);
  draw.drawImage(sheets[person], x * s, y * s, s, s, 0, 0, s, s);
}
document.getElementById("reset").addEventListener("click", asFound);
asFound();
</script>
</body>
</html>
"""
