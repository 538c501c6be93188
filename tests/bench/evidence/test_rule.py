"""The one rule for printed figures, and conventions of counting."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.evidence.finding import Verdict
from bench.published import Printed, distinct
from tests.bench.evidence.judged import BY_ID, PARAMS, verdict
from tests.bench.reporting.made_records import record

PRINTED = [
    # measured, as printed, verdict
    (33_040_000, "33.0", Verdict.REPRODUCED),
    (33_050_000, "33.0", Verdict.REPRODUCED),  # half a unit
    (33_060_000, "33.0", Verdict.NOT_REPRODUCED),  # parameters are exact
    (33_110_000, "33.0", Verdict.NOT_REPRODUCED),
    (33_490_000, "33", Verdict.REPRODUCED),
    (33_510_000, "33", Verdict.NOT_REPRODUCED),
    (31_990_000, "33", Verdict.NOT_REPRODUCED),
]


@pytest.mark.parametrize(("measured", "text", "expected"), PRINTED)
def test_printed_figures(measured: float, text: str, expected: Verdict) -> None:
    statement = replace(PARAMS, printed=(Printed(text, "M", "a paper"),))
    finding = verdict(statement, record("x", "params", measured))
    assert finding.verdict == expected
    assert finding.measured == measured
    assert finding.difference == pytest.approx(measured - float(text) * 1e6)


def test_the_released_moganets_have_other_parameters_than_printed() -> None:
    for model, params in (("moganet_xt", 2_956_066), ("moganet_b", 43_720_475), ("moganet_xl", 180_991_924)):
        statement = BY_ID[f"figure-{model.replace('_', '-')}-params-224"]
        assert verdict(statement, record(model, "params", params)).verdict == Verdict.NOT_REPRODUCED


RULE = [
    ("convnext_b", 15.36e9, Verdict.REPRODUCED, ""),
    ("convnext_b", 15.27e9, Verdict.WITHIN_TOLERANCE, "15.4 printed, 15.27 counted (-0.84 %): no convention of ours"),
    ("convnext_b", 15.19e9, Verdict.NOT_REPRODUCED, "15.4 printed, 15.19 counted (-1.36 %): no convention of ours"),
    ("overlock_xt", 2.69996e9, Verdict.NOT_REPRODUCED, "2.6 printed, 2.70 counted (+3.84 %): no convention of ours"),
    ("overlock_t", 5.64277e9, Verdict.NOT_REPRODUCED, "5.5 printed, 5.64 counted (+2.60 %): no convention of ours"),
    ("overlock_s", 9.88960e9, Verdict.NOT_REPRODUCED, "9.7 printed, 9.89 counted (+1.95 %): no convention of ours"),
    ("overlock_b", 17.0900e9, Verdict.NOT_REPRODUCED, "16.7 printed, 17.09 counted (+2.34 %): no convention of ours"),
]


@pytest.mark.parametrize(("model", "macs", "expected", "said"), RULE)
def test_one_tolerance_for_all_with_the_size_in_words(model: str, macs: float, expected: Verdict, said: str) -> None:
    """The four of OverLoCK, which differ by 2 to 3.8 %, get the same verdict: few printed digits are no excuse."""
    finding = verdict(BY_ID[f"figure-{model.replace('_', '-')}-macs-224"], record(model, "macs", macs))
    assert finding.verdict == expected
    assert finding.detail.startswith(said)


def test_another_convention_is_named_and_never_taken_for_ours() -> None:
    statement = BY_ID["figure-overlock-t-macs-224"]
    ours = record("overlock_t", "macs", 5.64e9, counter="defined")
    other = record("overlock_t", "macs", 5.52e9, counter="keys first", time="2026-02-01T00:00:00+00:00")
    assert verdict(statement, ours).verdict == Verdict.NOT_REPRODUCED
    finding = verdict(statement, ours, other)
    assert finding.verdict == Verdict.REPRODUCED
    assert "by the convention 'keys first', which gives 1 of the 1 figures" in finding.detail
    assert "5.64" in finding.detail
    assert [f.record for f in finding.evidence] == [other, ours]
    wrong = replace(other, value=5.3e9)
    assert verdict(statement, ours, wrong).measured == 5.64e9


MACS = {"overlock_xt": 2.70e9, "overlock_t": 5.64e9, "overlock_s": 9.89e9, "overlock_b": 17.09e9}


@pytest.mark.parametrize(
    ("given", "expected"), [(1, Verdict.NOT_REPRODUCED), (2, Verdict.NOT_REPRODUCED), (3, Verdict.REPRODUCED)]
)
def test_a_convention_has_to_give_most_of_a_table(given: int, expected: Verdict) -> None:
    """Of many conventions and few digits one agrees by chance."""
    printed = {"overlock_xt": 2.6e9, "overlock_t": 5.5e9, "overlock_s": 9.7e9, "overlock_b": 16.7e9}
    records = [record(model, "macs", macs, counter="defined") for model, macs in MACS.items()]
    for i, (model, macs) in enumerate(printed.items()):
        records.append(record(model, "macs", macs if i < given else 0.9 * macs, counter="another"))
    finding = verdict(BY_ID["figure-overlock-xt-macs-224"], *records)
    assert finding.verdict == expected
    assert f"{given} of the 4 figures" in finding.detail


UPERNET = {
    "t": (61.76, 60.99),
    "s": (87.30, 86.38),
    "b": (131.52, 130.30),
    "l": (255.68, 253.87),
    "xl": (427.47, 425.07),
}


def test_parameters_have_conventions_too() -> None:
    """UniRepLKNet's published parameters with UperNet are without the auxiliary head, all five of them."""
    records = []
    for size, (whole, without) in UPERNET.items():
        common = {"task": "segmentation", "head": "upernet", "resolution": "512x2048"}
        for count, counter in ((without, "parameters without the auxiliary head"), (whole, "parameters")):
            records.append(record(f"unireplknet_{size}", "params", count * 1e6, counter=counter, **common))
    for size in UPERNET:
        statement = BY_ID[f"figure-unireplknet-{size}-upernet-params"]
        finding = verdict(statement, *records)
        assert finding.verdict == Verdict.REPRODUCED
        assert "without the auxiliary head', which gives 5 of the 5 figures" in finding.detail
        assert verdict(statement, *[r for r in records if r.counter == "parameters"]).verdict == Verdict.NOT_REPRODUCED


def test_contradicting_sources_are_shown_with_what_was_measured() -> None:
    statement = BY_ID["figure-convnext-b-macs-384"]
    finding = verdict(statement, record("convnext_b", "macs", 45.1e9, resolution="384"))
    assert finding.verdict == Verdict.CONTRADICTORY
    assert "45.0 G: within tolerance" in finding.detail
    assert "47.0 G: not reproduced (47.0 printed, 45.10 counted (-4.04 %)" in finding.detail
    assert len(distinct(statement.printed)) == 2
