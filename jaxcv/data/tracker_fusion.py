"""Tracker fusion: the boxes that several trackers report in the frames of several sequences.

`TrackerSequences` holds whole sequences, padded to the longest. `flatten_frames` turns them into
`TrackerFrames`: one row per scored frame, with the inputs of a causal fusion. Each row depends on
its frame, on earlier frames, and on the first frame's true box, which started every tracker. Later
frames and the sequence's length have no effect.
"""

from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import argument_error

__all__ = [
    "TrackerFrames",
    "TrackerSequences",
    "check_sequences",
    "flatten_frames",
    "pad_sequences",
]


class TrackerSequences(NamedTuple):
    """S sequences of up to T frames with K trackers; NumPy arrays, corners in pixels.

    Attributes:
        names: S sequence names.
        trackers: K tracker names; the K axes below follow this order.
        ground_truth: (S, T, 4) true boxes x1, y1, x2, y2 [px]. In frames after the first, a
            degenerate box or NaN marks an absent object.
        boxes: (S, T, K, 4) reported boxes x1, y1, x2, y2 [px]; zero where not reported.
        valid: (S, T) bool, the real frames; False is padding, where all arrays are zero.
        reported: (S, T, K) bool, the tracker gave a box in this frame. The first frame, where
            trackers start from the true box, normally counts as not reported.
        lengths: (S,) int, number of real frames. For bookkeeping only: no method may use it,
            since a tracker does not know it in advance.
    """

    names: tuple[str, ...]
    trackers: tuple[str, ...]
    ground_truth: np.ndarray
    boxes: np.ndarray
    valid: np.ndarray
    reported: np.ndarray
    lengths: np.ndarray


class TrackerFrames(NamedTuple):
    """F scored frames of K trackers; a pytree of arrays, corners x1, y1, x2, y2 in pixels.

    Attributes:
        ground_truth: (F, 4) true boxes [px]: the target, never an input.
        boxes: (F, K, 4) the boxes of this frame [px]; zero where not reported.
        reported: (F, K) bool, at least one True per row.
        initial: (F, 4) the box that started all trackers, the truth of frame 1 [px].
        previous: (F, K, 4) the last box that each tracker reported before this frame [px], or
            `initial` if there is none.
        sequence: (F,) int, index into `TrackerSequences.names`.
        frame: (F,) int, frames since the start: 1 for a sequence's second frame.
    """

    ground_truth: np.ndarray
    boxes: np.ndarray
    reported: np.ndarray
    initial: np.ndarray
    previous: np.ndarray
    sequence: np.ndarray
    frame: np.ndarray


def pad_sequences(
    names: Any,
    trackers: Any,
    ground_truth: list[np.ndarray],
    boxes: list[np.ndarray],
    reported: list[np.ndarray],
    *,
    dtype: Any = np.float32,
) -> TrackerSequences:
    """Pads sequences of different lengths with zeros to the longest, and checks them.

    Args:
        names: S sequence names.
        trackers: K tracker names.
        ground_truth: S arrays (T_s, 4), x1, y1, x2, y2 [px].
        boxes: S arrays (T_s, K, 4) [px]; set to zero where not reported.
        reported: S boolean arrays (T_s, K).
        dtype: of the boxes, float32 or float64.

    Raises:
        ValueError: as for `check_sequences`; or shapes disagree within a sequence.
    """
    names, trackers = tuple(names), tuple(trackers)
    if not (len(names) == len(ground_truth) == len(boxes) == len(reported) > 0):
        got = (len(names), len(ground_truth), len(boxes), len(reported))
        raise argument_error("names", "expected one or more sequences, as many as arrays", got)
    num, longest, k = len(names), max(len(truth) for truth in ground_truth), len(trackers)
    truth_all = np.zeros((num, longest, 4), dtype)
    boxes_all = np.zeros((num, longest, k, 4), dtype)
    reported_all = np.zeros((num, longest, k), bool)
    lengths = np.array([len(truth) for truth in ground_truth], np.int32)
    for s, n in enumerate(lengths.tolist()):
        for what, array, shape in (
            ("ground_truth", ground_truth[s], (n, 4)),
            ("boxes", boxes[s], (n, k, 4)),
            ("reported", reported[s], (n, k)),
        ):
            if np.shape(array) != shape:
                raise argument_error(f"{what}[{names[s]!r}]", f"expected {shape}", np.shape(array))
        truth_all[s, :n] = ground_truth[s]
        reported_all[s, :n] = reported[s]
        boxes_all[s, :n] = np.where(np.asarray(reported[s], bool)[..., None], boxes[s], 0)
    valid = np.arange(longest) < lengths[:, None]
    padded = TrackerSequences(names, trackers, truth_all, boxes_all, valid, reported_all, lengths)
    check_sequences(padded)
    return padded


def flatten_frames(sequences: TrackerSequences) -> TrackerFrames:
    """The scored frames of all sequences, in order of sequence and frame, as one batch.

    Scored are all real frames but the first (trackers start from its truth) in which the object
    is present (its true box is finite and not degenerate) and at least one tracker reported a
    box. A row does not depend on later frames.

    Args:
        sequences: S sequences, not checked here; see `check_sequences`.

    Returns:
        The F scored frames; NumPy arrays in the dtype of `sequences`, indices in int32.
    """
    truth, boxes, reported = sequences.ground_truth, sequences.boxes, sequences.reported
    scored = sequences.valid & _is_box(truth) & reported.any(-1)
    scored[:, :1] = False
    s, t = np.nonzero(scored)

    # Frame of the last report before t, 0 if none; frame 0 stands for the true box.
    frame = np.arange(truth.shape[1])[None, :, None]
    last = np.maximum.accumulate(np.where(reported, frame, 0), axis=1)[s, t - 1]  # (F, K)
    initial = truth[s, 0]  # (F, 4)
    k = np.arange(boxes.shape[2])
    previous = np.where(
        (last > 0)[..., None], boxes[s[:, None], last, k[None, :]], initial[:, None]
    )
    return TrackerFrames(
        ground_truth=truth[s, t],
        boxes=boxes[s, t],
        reported=reported[s, t],
        initial=initial,
        previous=previous,
        sequence=s.astype(np.int32),
        frame=t.astype(np.int32),
    )


def check_sequences(sequences: TrackerSequences) -> None:
    """Raises ValueError, naming sequence, tracker and frame, unless `sequences` is well formed.

    The rules: one or more sequences and trackers with distinct names; shapes and dtypes as in
    `TrackerSequences`; two or more frames per sequence, the rest zero padding; in the first frame
    a finite true box with positive sides (later ones may be absent); and reported boxes that are
    finite with positive sides. Messages count frames from 1, like the lines of a file.
    """
    names, trackers, truth, boxes, valid, reported, lengths = sequences
    for what, labels in (("names", names), ("trackers", trackers)):
        twice = sorted({label for label in labels if list(labels).count(label) > 1})
        if not labels or twice:
            hint = "Rename or drop the repeated ones." if twice else "Add at least one."
            raise argument_error(what, "expected one or more distinct names", twice or "()", hint)
    if np.ndim(truth) != 3:
        raise argument_error("ground_truth", "expected (S, T, 4)", np.shape(truth))
    s, t, k = len(names), truth.shape[1], len(trackers)
    for what, array, shape, kind in (
        ("ground_truth", truth, (s, t, 4), np.floating),
        ("boxes", boxes, (s, t, k, 4), np.floating),
        ("valid", valid, (s, t), np.bool_),
        ("reported", reported, (s, t, k), np.bool_),
        ("lengths", lengths, (s,), np.integer),
    ):
        if np.shape(array) != shape or not np.issubdtype(array.dtype, kind):
            got = f"{np.shape(array)} {getattr(array, 'dtype', type(array))}"
            hint = "Build padded arrays with `pad_sequences`."
            raise argument_error(what, f"expected {shape} {kind.__name__}", got, hint)

    def fail(expected: str, bad: Any, values: np.ndarray, hint: str) -> None:
        if bad.any():
            index = tuple(int(i) for i in np.argwhere(bad)[0])
            where = f"sequence {names[index[0]]!r}"
            where += f", tracker {trackers[index[2]]!r}" if len(index) > 2 else ""
            where += f", frame {index[1] + 1}" if len(index) > 1 else ""
            raise argument_error(where, expected, np.asarray(values[index]).tolist(), hint)

    too_short = (lengths < 2) | (lengths > t)
    fail(f"expected 2 to {t} frames", too_short, lengths, "Drop the sequence.")
    padding = np.arange(t) >= lengths[:, None]
    fail("`valid` must be True up to `lengths`", valid ^ ~padding, valid, "Use `pad_sequences`.")
    expected = "the first frame's true box must be finite with x1 < x2 and y1 < y2"
    fail(
        expected,
        ~_is_box(truth[:, :1]),
        truth,
        "Start the sequence at a frame where the object is visible.",
    )
    expected = "a reported box must be finite with x1 < x2 and y1 < y2"
    hint = "Set `reported` to False there, and the box to zero."
    fail(expected, reported & ~_is_box(boxes), boxes, hint)
    expected = "a box that is not reported must be zero"
    fail(
        expected, ~reported & (boxes != 0).any(-1), boxes, "Set it to zero, or `reported` to True."
    )
    fail("padding must be zero", padding & (truth != 0).any(-1), truth, "Use `pad_sequences`.")
    expected = "padding must not be reported"
    fail(expected, padding[..., None] & reported, reported, "Set `reported` to False there.")


def _is_box(corners: np.ndarray) -> np.ndarray:
    """Mask (...) of boxes (..., 4) that are finite with positive sides."""
    with np.errstate(invalid="ignore"):
        positive = np.all(corners[..., 2:] > corners[..., :2], axis=-1)
    return np.asarray(np.isfinite(corners).all(-1) & positive)
