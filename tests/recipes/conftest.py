"""Lets the tests of this folder import the samples beside them and those of models, and gives them documents."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

WORDS = [
    *("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "larch"),
    *("marsh", "niche", "ocean", "plain", "quarry", "ridge"),
]


@pytest.fixture
def documents(tmp_path):
    """A folder of eight documents, as what a recipe says of it."""
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(8):
        words = (f"{word} {place * (number + 3)}" for place, word in enumerate(WORDS * 6, number))
        (folder / f"{number}.txt").write_text(f"Page {number}: " + " ".join(words))
    return f'data.sources=[{{path="{folder}", licence="MIT"}}]'
