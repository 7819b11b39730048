"""The datasheet: true to what was counted, a page that can do no harm, and metadata that catalogues accept."""

import copy
import json
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pyarrow
import pyarrow.parquet
import pytest
from corpus_samples import COLLECTIONS, NAUGHTY, Recipe, counted, events

from preceptor.core.errors import OutputError
from preceptor.data import croissant, datasheet
from preceptor.data.datasheet_page import render
from preceptor.data.document import Document, Drop, Rejected
from preceptor.data.mixture import MixtureConfig
from preceptor.data.source_config import SourceConfig
from preceptor.data.statistics import Statistics
from preceptor.data.visible import visible

TODAY = (
    *("documents_in", "documents_kept", "documents_dropped", "drops_by_rule", "bytes_in", "bytes_kept", "edits"),
    *("redactions", "licences", "consents", "sources", "warnings", "train", "validation"),
)
BIAS = {"groups": {"<b>women": {"documents": 12, "ratio": 0.71}}, "rows": [{"term": "she", "interval": [0.6, 0.85]}]}
VOID = {"meta", "br", "rect", "line"}


@pytest.fixture(scope="module")
def sheet():
    limits = {"characters": (100.0, 50000.0), "letter_fraction": (0.5, float("inf"))}
    built = datasheet.build(counted(events(1500)), config=Recipe(), bias=BIAS, outliers=limits)
    return json.loads(json.dumps(built, allow_nan=False))


class Page(HTMLParser):
    """The tags, attributes and text of a page; notes tags that are not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_sheet_adds_up(sheet):
    assert all(key in sheet for key in TODAY)
    assert sheet["documents_in"] == sheet["documents_kept"] + sheet["documents_dropped"] == 1500
    assert sum(sheet["drops_by_rule"].values()) == sheet["documents_dropped"]
    assert sheet["train"]["documents"] + sheet["validation"]["documents"] == sheet["documents_kept"]
    assert sheet["train"]["bytes"] + sheet["validation"]["bytes"] == sheet["bytes_kept"]
    for key in ("licences", "consents", "languages", "years", "sources"):
        assert sum(sheet[key].values()) == sheet["documents_kept"], key
    for key in ("bytes_by_licence", "bytes_by_language"):
        assert sum(sheet[key].values()) == sheet["bytes_kept"], key
    for rule, number in sheet["drops_by_rule"].items():
        assert sum(sheet["drops_by_collection"][rule].values()) == number
        assert 0 < len(sheet["drop_samples"][rule]) <= number
    refused = sum(sum(counts.values()) for counts in sheet["refused_by_licence"].values())
    assert refused == sheet["drops_by_rule"]["licence-denied"]


def test_sources_stand_in_the_order_of_the_recipe(sheet):
    rows = sheet["collections"]
    assert [row["name"] for row in rows] == [*COLLECTIONS, "nothing"]
    for key in ("documents_in", "documents_kept", "documents_dropped", "bytes_kept"):
        assert sum(row[key] for row in rows) == sheet[key], key
    assert sum(row["share_of_bytes"] for row in rows) == pytest.approx(1)
    assert rows[0]["origin"] == "https://example.org"
    assert rows[1]["weight"] == 2.0
    assert all(sum(row["drops_by_rule"].values()) == row["documents_dropped"] for row in rows)


def test_a_source_without_a_name_is_found_by_its_label():
    source = SourceConfig(path="./docs/", licence="MIT")
    statistics = Statistics()
    statistics.read(7, source.label)
    (row,) = datasheet.build(statistics, config=Recipe(sources=(source,)))["collections"]
    assert (row["name"], row["licence"], row["documents_in"]) == ("docs", "MIT", 1)


def test_histograms_hold_every_document(sheet):
    for name, measure in sheet["measures"].items():
        kept = measure["kept"]
        assert sum(count for *_, count in kept["bins"]) == kept["documents"]
        assert kept["documents"] + kept["undefined"] == sheet["documents_kept"], name
        assert all(before[1] <= after[0] for before, after in pairwise(kept["bins"]))
        assert measure["dropped"]["documents"] > 0
    assert sheet["outliers"] == {"characters": [100.0, 50000.0], "letter_fraction": [0.5, None]}


def test_warnings_say_what_matters(sheet):
    said = " | ".join(sheet["warnings"])
    assert f"{sheet['licences']['unknown']} of {sheet['documents_kept']} documents have no declared licence" in said
    assert "were refused for want of a right (licence-denied)" in said
    assert "source 'nothing' gave no document" in said
    assert "share words with an evaluation set and are kept" in said


def test_tokens_are_shown_where_they_are_known():
    statistics = counted(events(60))
    assert "tokens" not in datasheet.build(statistics, config=Recipe())["collections"][0]
    sheet = datasheet.build(statistics, config=Recipe(), tokens={"web": 12345})
    assert [row["tokens"] for row in sheet["collections"]] == [12345, 0, 0, 0]
    assert '<td class="n">12,345</td>' in render(sheet)


def test_the_mixture_shows_what_training_will_see():
    statistics = counted(events(400))
    sheet = datasheet.build(statistics, config=Recipe(mixture=MixtureConfig(kind="weights")))
    web, books, _, nothing = sheet["collections"]
    assert [row["share_in_training"] for row in sheet["collections"]] == pytest.approx([0.25, 0.5, 0.25, 0])
    num_bytes = sheet["train"]["bytes"]
    assert books["epochs_in_training"] * books["train_bytes"] == pytest.approx(num_bytes / 2)
    assert web["epochs_in_training"] < books["epochs_in_training"] and nothing["epochs_in_training"] == 0
    assert "by the weights in the recipe" in render(sheet)
    plain = datasheet.build(statistics, config=Recipe())
    assert [row.get("epochs_in_training") for row in plain["collections"][:3]] == pytest.approx([1, 1, 1])


def test_a_mixture_that_cannot_be_is_a_warning():
    capped = tuple(replace(source, max_epochs=0.5) for source in Recipe().sources)
    sheet = datasheet.build(counted(events(60)), config=Recipe(sources=capped))
    assert any("the mixture cannot blend as much text as there is" in warning for warning in sheet["warnings"])
    assert "share_in_training" not in sheet["collections"][0]
    assert Page(render(sheet)).open == []


def test_the_page_is_whole_and_fetches_nothing(sheet, tmp_path):
    datasheet.write_html(sheet, tmp_path / "datasheet.html")
    page = Page((tmp_path / "datasheet.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert not {"script", "img", "link", "iframe", "object", "form", "base"} & set(page.tags)
    for name, value in page.attributes:
        assert name not in ("src", "srcset", "style") or value == "margin-left:0"
        assert not name.startswith("on")
        assert name != "href" or value.startswith("#")
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert page.tags.count("figure") == len(sheet["measures"])
    targets = {value for name, value in page.attributes if name == "id"}
    assert {value[1:] for name, value in page.attributes if name == "href"} == targets


def test_what_strangers_wrote_is_shown_and_does_nothing(sheet):
    page = render(sheet)
    assert "<script>alert" not in page and "<b>women" not in page and "<quiz>" not in page
    assert not set("\x00\x07\u202e") & set(page)
    shown = "".join(Page(page).text)
    assert visible(NAUGHTY) in shown and "<script>alert(1)</script>" in shown
    assert "eval/<quiz>.jsonl" in shown and "<phone>" in shown and "<b>women" in shown


@pytest.mark.parametrize("place", ["source", "collection", "licence", "rule", "detail", "text", "edit", "kind"])
def test_no_field_can_break_the_page(place):
    bad = '"><script>x</script>\ud800\x1b[2J'
    fields = dict.fromkeys(("source", "collection", "licence", "rule", "detail", "text", "edit", "kind"), "plain")
    fields[place] = bad
    statistics = Statistics()
    statistics.read(1, fields["collection"])
    document = Document.new(
        fields["text"], fields["source"], licence=fields["licence"], collection=fields["collection"], date="2020-01-01"
    )
    statistics.dropped(document, Drop(fields["rule"], 1, 0, fields["detail"]), {"characters": 1.0})
    statistics.rejected(Rejected(fields["source"], fields["rule"], fields["detail"]), fields["collection"])
    statistics.kept(document, {"characters": 1.0}, "train")
    statistics.edited(fields["edit"])
    statistics.redacted({fields["kind"]: 1}, fields["collection"])
    page = render(json.loads(json.dumps(datasheet.build(statistics, config=Recipe()))))
    assert "<script" not in page and "\x1b" not in page and "\ud800" not in page
    assert Page(page).open == []


def test_an_empty_corpus_has_a_page():
    sheet = datasheet.build(Statistics(), config=Recipe())
    assert sheet["documents_in"] == sheet["bytes_kept"] == 0
    assert "0 documents in = 0 kept + 0 dropped" in render(sheet)


def test_the_same_counts_give_the_same_bytes():
    happened = events(300)
    pages = {render(datasheet.build(counted(order), config=Recipe())) for order in (happened, happened[::-1])}
    assert len(pages) == 1


def test_bars_are_as_high_as_their_counts():
    statistics = Statistics()
    for number, value in ((30, 0.1), (10, 0.5)):
        for place in range(number):
            document = Document.new(f"{value} {place}", "file:a")
            statistics.read(3, "")
            statistics.kept(document, {"letter_fraction": value}, "train")
    limits = {"letter_fraction": (0.3, 2.0)}
    page = render(datasheet.build(statistics, config=Recipe(), outliers=limits))
    heights = [
        float(part.split('"')[0]) for part in page.split('class="kept" x="')[1:] for part in [part.split('height="')[1]]
    ]
    assert heights == [90.0, 30.0]
    assert page.count('<line class="limit"') == 1
    assert "0.1 to 0.12: 30 kept, 0 dropped" in page


def test_the_range_of_what_a_rule_measured_is_shown():
    statistics = Statistics()
    for number in range(11):
        statistics.read(1, "")
        statistics.dropped(Document.new("a", f"file:{number}"), Drop("too-short", number, 80), {})
    sheet = datasheet.build(statistics, config=Recipe())
    assert sheet["drop_measures"]["too-short"]["quantiles"]["0.5"] == pytest.approx(5, rel=0.13)
    assert "11 documents, which measured 0 to 10, half of them at most" in render(sheet)


def test_a_page_that_cannot_be_written_is_said(sheet, tmp_path):
    (tmp_path / "datasheet.html").mkdir()
    with pytest.raises(OutputError):
        datasheet.write_html(sheet, tmp_path / "datasheet.html")


def columns(folder: str) -> list[str]:
    record_set = next(part for part in croissant.build(EMPTY, [f"{folder}/0.parquet"])["recordSet"])
    return [part["name"] for part in record_set["field"]]


EMPTY = datasheet.build(Statistics(), config=Recipe())


def test_croissant_is_valid_and_reads_the_files(sheet, tmp_path):
    files = []
    for folder in ("documents", "ledger"):
        (tmp_path / folder).mkdir()
        for number in range(2):
            row = {name: [0.5 if name in ("measured", "limit") else f"{name} {number}"] for name in columns(folder)}
            files.append(f"{folder}/{number:05d}.parquet")
            pyarrow.parquet.write_table(pyarrow.table(row), tmp_path / files[-1])
    metadata = croissant.build(sheet, files)
    (tmp_path / "croissant.json").write_text(json.dumps(metadata), encoding="utf-8")
    with warnings.catch_warnings():
        # The libraries under the validator use what others of them have deprecated.
        warnings.simplefilter("ignore")
        import mlcroissant

        dataset = mlcroissant.Dataset(tmp_path / "croissant.json")
        assert not dataset.metadata.issues.errors
        said = [line for line in dataset.metadata.issues.warnings if "is recommended, but does not exist" not in line]
        assert said == []
        rows = list(dataset.records("documents-rows"))
        ledger = list(dataset.records("ledger-rows"))
    assert sorted(row["documents-rows/text"] for row in rows) == [b"text 0", b"text 1"]
    assert [row["ledger-rows/measured"] for row in ledger] == [0.5, 0.5]
    assert metadata["license"][0].startswith("https://spdx.org/licenses/") and "unknown" in metadata["license"]
    assert "web: " in metadata["rai:dataCollection"]


def test_croissant_of_a_broken_description_is_refused(sheet, tmp_path):
    # The validator is able to say no, so that the test above means something.
    metadata = copy.deepcopy(croissant.build(sheet, ["documents/0.parquet"]))
    metadata["recordSet"][0]["field"][0]["source"]["fileSet"]["@id"] = "elsewhere"
    (tmp_path / "croissant.json").write_text(json.dumps(metadata), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlcroissant

        with pytest.raises(mlcroissant.ValidationError):
            mlcroissant.Dataset(tmp_path / "croissant.json")


def test_croissant_names_only_what_is_there(sheet):
    metadata = croissant.build(sheet, ["documents/00000.parquet"])
    assert [part["@id"] for part in metadata["distribution"]] == ["documents"]
    assert [part["@id"] for part in metadata["recordSet"]] == ["documents-rows"]


@pytest.mark.parametrize(
    ("licence", "said"),
    [
        ("MIT", "https://spdx.org/licenses/MIT.html"),
        ("MIT OR Apache-2.0", "MIT OR Apache-2.0"),
        ("unknown", "unknown"),
        ("LicenseRef-mine", "LicenseRef-mine"),
    ],
)
def test_licences_are_addresses_where_spdx_has_one(licence, said):
    assert croissant.build({**EMPTY, "licences": {licence: 1}}, [])["license"] == [said]
