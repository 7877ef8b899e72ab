"""The quick example graphs, trained by the command on their real data, are as good as their table says."""

from __future__ import annotations

from pathlib import Path

import pytest
from train_examples import EXAMPLES, Example, score, train

QUICK = {
    "digits_resnet": 0.98,
    "digits_autoencoder": 0.8,
    "digits_two_heads": 0.97,
    "tumours_classification": 0.95,
    "diabetes_regression": 0.2,
    "series_forecast": 0.98,
    "docstrings_gru": 0.7,
}


@pytest.mark.e2e
@pytest.mark.parametrize(
    "example", [each for each in EXAMPLES if each.name in QUICK], ids=lambda example: example.name
)
def test_an_example_reaches_its_quality(example: Example, tmp_path: Path) -> None:
    assert score(example, train(example, tmp_path)) >= QUICK[example.name]
