"""The table of claims: every verdict rests on a record or a test, and quotes its numbers."""

import re

import pytest

from experiments.results import claims, page

ENTRY = {"id": "X1", "place": "Sec. 1", "says": "It works.", "verdict": "confirmed"}


def test_every_claim_is_sound_and_its_numbers_are_those_of_records():
    metrics = claims.metrics_of_records()
    for source in claims.read_sources():
        for claim in source.claims:
            for text in (claim.shows, claim.disagrees):
                assert "{" not in claims.shown(text, metrics, claim.id)
                assert "nan" not in claims.shown(text, metrics, claim.id), claim.id


def test_the_committed_page_is_that_of_the_records():
    text = page.PAGE.read_text()
    assert page.page(text) == text, "run python -m experiments.results"


def test_counts_of_verdicts_are_on_the_page():
    counts = claims.count_verdicts(claims.read_sources())
    rows = re.findall(
        r"^\| [A-Z]\d+ \|.*\*\*(.*?)\*\*[^|]*\|$", page.PAGE.read_text(), re.MULTILINE
    )
    assert {word: rows.count(word) for word in claims.VERDICTS} == counts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verdict": "proven", "shows": "{a|b|.1f}"}, "expected one of"),
        ({"shows": "12 mm."}, "expected a number of a record, or a test"),
        ({"shows": "{a|b|.1f}", "verdict": "confirmed for"}, "expected `conditions`"),
        ({"shows": "{a|b|.1f}", "conditions": "here"}, "expected `conditions`"),
        ({"tests": ["tests/test_api.py::test_nothing"]}, "expected a test that is there"),
        ({"shows": "{a|b|.1f}", "seeds": 3}, "expected fields among"),
    ],
)
def test_a_claim_without_evidence_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        claims._claim(tmp_path / "a.toml", ENTRY | changes)


def test_numbers_are_formatted_as_asked():
    metrics = {
        "r": {"a": [1.0, 2.0, 6.0], "b_change": -0.126, "b_low": -0.2, "b_high": 0.0004, "c": None}
    }
    text = "{r|a|.1f} {r|a|median .0f} {r|a|count .0f} {r|a|range .1f} "
    text += "{r|b_change|percent interval .0f}"
    got = claims.shown(text, metrics)
    assert got == "3.0 2 3 3.0 [1.0, 6.0] −13 [−20, 0]"
    assert claims.shown("{r|c|.1f}", metrics) == "nan"
    with pytest.raises(ValueError, match=r"expected a key of a record, got r\|d"):
        claims.shown("{r|d|.1f}", metrics)
