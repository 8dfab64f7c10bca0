"""A killed training ends as an undisturbed one, in every file."""

import pytest

from tests.experiments import kill_campaign


@pytest.mark.slow
def test_killed_trainings_end_like_undisturbed_ones(tmp_path):
    assert kill_campaign.campaign(10, tmp_path) == []
