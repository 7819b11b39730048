"""Pictures of classifiers: every count is there, for few classes and for many, and any name can be drawn."""

import numpy as np
import pytest

from preceptor.evaluate.classification import classification_scores
from preceptor.recipes.curves import as_png, as_svg
from preceptor.recipes.task_plots import MOST_CLASSES, draw_class_scores, draw_confusion, merged


def facts(num_classes, count=300):
    generator = np.random.default_rng(0)
    labels = [
        f"a $ign_{n} 日本 <b>" if n == 1 else f"class {n} with a name that has no end" for n in range(num_classes)
    ]
    references = [labels[min(num_classes - 1, int(each))] for each in generator.exponential(num_classes / 3, count)]
    said = [each if generator.random() < 0.7 else labels[generator.integers(num_classes)] for each in references]
    return classification_scores(references, said, labels).facts()


@pytest.mark.parametrize("num_classes", [2, 12, 30])
def test_every_count_stands_in_the_confusion_matrix(num_classes):
    confusion = facts(num_classes)["confusion"]
    figure = draw_confusion(confusion["names"], confusion["counts"])
    axes = figure.axes[0]
    counts = np.array(confusion["counts"])
    written = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert all(written[row, column] == str(counts[row, column]) for row, column in np.argwhere(counts))
    assert len(written) == (counts.size if num_classes <= 10 else np.count_nonzero(counts))
    shares = axes.images[0].get_array()
    np.testing.assert_allclose(shares.sum(axis=1)[counts.sum(axis=1) > 0], 1.0)
    svg = as_svg(figure)
    assert "a $ign_1 日本 &lt;b&gt;" in svg and as_png(figure).startswith(b"\x89PNG")


def test_numbers_are_light_on_dark_cells_and_dark_on_light_ones():
    texts = draw_confusion(["a", "b"], [[90, 10], [12345, 0]]).axes[0].texts
    colours = {text.get_text(): text.get_color() for text in texts}
    assert colours["90"] == colours["12k"] == "white" and colours["10"] == colours["0"] == "#1f2937"


def test_the_rarest_of_many_classes_are_put_together():
    names, table = merged(["a", "b", "c", "d"], [[9, 1, 0, 0], [0, 1, 1, 0], [0, 0, 7, 1], [1, 0, 0, 1]], most=3)
    assert names == ["a", "c", "(2 others)"]
    assert table.tolist() == [[9, 0, 1], [0, 7, 1], [1, 1, 2]]
    confusion = facts(50)["confusion"]
    axes = draw_confusion(confusion["names"], confusion["counts"]).axes[0]
    assert axes.images[0].get_array().shape == (MOST_CLASSES, MOST_CLASSES)


@pytest.mark.parametrize("num_classes", [2, 50])
def test_bars_of_classes_show_f1_with_the_commonest_first(num_classes):
    per_class = facts(num_classes)["per_class"]
    figure = draw_class_scores(per_class)
    axes = figure.axes[0]
    order = sorted(per_class.values(), key=lambda each: -each["support"])[:MOST_CLASSES]
    assert [bar.get_width() for bar in axes.patches] == [each["f1"]["value"] for each in order]
    assert axes.get_yticklabels()[0].get_text().endswith(f"({order[0]['support']})")
    assert as_png(figure).startswith(b"\x89PNG")
