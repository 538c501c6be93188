"""The engine with real processes and small models: what is measured in turn, and what one side's trouble costs."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bench.cli import BadInput
from bench.engine import figures
from bench.engine.interleaved import measure, rounds_wanted, settled, turns_of
from bench.engine.outcome import Outcome, Replicate
from bench.engine.plan import Plan
from bench.engine.request import Request, Settings
from bench.metrics import LATENCY, TRAINING, of_kind
from overlock.contmix import BACKENDS
from tests.bench.processes import all_end, workers_of

HERE = Path(__file__).resolve().parents[1]
REPOSITORY = HERE.parent.parent
PLAN = Plan(rounds=2, turns=2, most_turns=2, block=0.02, warmup=0.1, canary_limit=math.inf)
SETTINGS = Settings(device="cpu", batch=2, threads=1, imports=("planted_models",))


def side(model: str, **env: str) -> Request:
    return Request(
        model=model, form="deploy", resolution=(32, 32), settings=SETTINGS, env={"PYTHONPATH": str(HERE), **env}
    )


def test_a_killed_process_costs_its_side_one_round(tmp_path: Path) -> None:
    sides = [side(name, KILLED=str(tmp_path / "killed")) for name in ("tiny_undefined", "tiny_killed_once")]
    *_, outcome = measure(sides, plan=PLAN)
    assert [[r is not None for r in rounds] for rounds in outcome.replicates] == [[True, True], [False, True]]
    assert "SIGKILL" in outcome.failures[1][0]
    assert not workers_of()
    undefined, killed = figures.records_of(outcome, ["throughput"], [None] * 2)
    assert killed.valid
    assert killed.n == len(killed.samples) == 1
    assert killed.layout in ("channels_first", "channels_last")
    assert any("1 process lost: killed by SIGKILL" in note for note in killed.notes)
    assert not undefined.valid
    assert undefined.n == 2
    assert undefined.reasons == ("outputs are not finite",)


@pytest.mark.slow
def test_out_of_memory_is_tried_again_alone_and_is_a_result() -> None:
    *_, outcome = measure([side("tiny"), side("tiny_starved")], plan=replace(PLAN, rounds=1))
    assert outcome.replicates[0][0] is not None
    assert outcome.gone == [False, True], "what lacks memory is not tried in further rounds"
    assert any("one after another" in note for note in outcome.notes), "it had all memory to itself"
    _, starved = figures.records_of(outcome, ["throughput"], [None] * 2)
    assert starved.value is None
    assert starved.out_of_memory


def test_blocks_are_taken_back_and_forth() -> None:
    begun: list[str] = []
    plan = replace(PLAN, rounds=2, turns=3, most_turns=3)
    *_, outcome = measure([replace(side("tiny"), label=name) for name in "AB"], plan=plan, begun=begun.append)
    blocks = [what.split(":")[0] for what in begun if "block" in what]
    assert "".join(blocks) == "ABBAAB" + "BAABBA"
    ratio = outcome.ratio(0, 1)
    assert ratio is not None
    assert ratio.n == 2
    other = outcome.ratio(1, 0)
    assert other is not None
    assert ratio.value == pytest.approx(1 / other.value, rel=1e-9)
    assert all(r is not None and r.warm["calls"] >= 2 for rounds in outcome.replicates for r in rounds)
    assert outcome.replicates[0][0] is not None
    assert outcome.replicates[0][0].last["ran"], "the first round names the operators that ran"
    more = list(measure(outcome.sides, plan=replace(plan, rounds=1), outcome=outcome))
    assert more[-1] is outcome
    assert outcome.rounds == 3


def test_latency_and_training_of_a_real_network() -> None:
    settings = replace(SETTINGS, imports=(), layout="channels_last")
    network = Request(kind=LATENCY, model="overlock_xt", form="train", resolution=(32, 32), settings=settings)
    plan = replace(PLAN, rounds=1, turns=1, block=0.2)
    *_, latency = measure([network], plan)
    found = {r.metric: r for r in figures.records_of(latency, of_kind(LATENCY), [None])}
    values = [found[name].value for name in ("latency", "latency_p90", "latency_p99")]
    assert all(v is not None for v in values)
    assert 0 < values[0] <= values[1] <= values[2]  # type: ignore[operator]
    assert {r.batch for r in found.values()} == {1}
    assert found["latency"].backend in BACKENDS
    network = replace(network, kind=TRAINING, settings=replace(settings, layout="auto"))  # two steps in each come first
    *_, training = measure([network], plan)
    (record,) = figures.records_of(training, ["training"], [None])
    assert record.valid, record.reasons
    assert record.layout in ("channels_first", "channels_last")
    assert record.batch == 2
    assert record.value is not None
    assert record.value > 0


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Another checkout's networks, in which ConvNeXt's classifier is told apart by its name."""
    for package in ("overlock", "baselines"):
        shutil.copytree(REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_side_can_be_another_checkout(checkout: Path) -> None:
    settings = replace(SETTINGS, imports=())
    here = Request(model="convnext_t", form="deploy", resolution=(32, 32), settings=settings)
    there = replace(here, root=str(checkout), label="other")
    broken = checkout / "baselines" / "convnext.py"
    broken.write_text(broken.read_text() + "\nraise RuntimeError('this is the other checkout')\n")
    *_, outcome = measure([there, here], plan=replace(PLAN, rounds=1))
    assert outcome.replicates[1][0] is not None, outcome.failures
    assert "this is the other checkout" in outcome.failures[0][0]


@pytest.mark.slow
def test_a_root_without_the_networks_is_bad_input(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Python would quietly import those that are installed."""
    settings = replace(SETTINGS, imports=())
    empty = str(tmp_path_factory.mktemp("empty"))
    there = Request(model="convnext_t", form="deploy", resolution=(32, 32), settings=settings, root=empty)
    with pytest.raises(BadInput, match=r"imported from .*install it there"):
        list(measure([replace(there, env={"PYTHONPATH": str(checkout)})], plan=replace(PLAN, rounds=1)))


def test_stopping_early_leaves_no_process() -> None:
    running = measure([side("tiny"), side("tiny")], plan=replace(PLAN, rounds=50))
    next(running)
    left = workers_of()
    running.close()  # type: ignore[attr-defined]
    assert all_end(left)
    assert not workers_of()


def test_an_interrupted_round_does_not_count() -> None:
    """Else it would stand for one that was measured."""

    def interrupt(what: str) -> None:
        if "round 2, block" in what:
            raise KeyboardInterrupt

    running = measure([side("tiny")], plan=replace(PLAN, canary_limit=-1.0), begun=interrupt)
    outcome = next(running)
    with pytest.raises(KeyboardInterrupt):
        next(running)
    assert outcome.rounds == 1
    assert outcome.of(0)
    assert not workers_of()


def test_a_round_that_was_shown_counts_also_where_its_canaries_are_interrupted() -> None:
    """Else nothing would be kept of the figures that somebody has just seen."""

    def interrupt(what: str) -> None:
        if "canary" in what:
            raise KeyboardInterrupt

    outcome = Outcome.of_none([side("tiny"), side("tiny")], PLAN)
    with pytest.raises(KeyboardInterrupt):
        list(measure(outcome.sides, PLAN, interrupt, outcome))
    assert outcome.rounds == 1
    first, _ = figures.records_of(outcome, ["throughput"], [None] * 2)
    assert first.valid
    assert first.value
    assert first.moved == ()
    assert not workers_of()


def test_a_side_that_does_not_answer_is_given_up() -> None:
    begun: list[str] = []
    plan = replace(PLAN, rounds=1, timeout=1.0)  # less than any fresh interpreter takes to import PyTorch
    slow = replace(side("tiny"), settings=replace(SETTINGS, process="exec"))
    *_, outcome = measure([slow], plan=plan, begun=begun.append)
    assert outcome.replicates == [[None]]
    assert "no answer within 1 s" in outcome.failures[0][0]


def outcome_of(moves: list[list[float]], limit: float = 0.02) -> Outcome:
    """An outcome of two sides whose canaries moved so much, by side and round; side 1 is twice as fast."""
    sides = [side("tiny"), side("tiny")]
    replicates: list[list[Replicate | None]] = []
    for i, by_round in enumerate(moves):
        replicates.append([])
        for r, moved in enumerate(by_round):
            warm = {"batch": 2, "steady": True, "problems": [], "cold": 1.0, "backend": "", "weights": "random:0"}
            last = {"canary": {"moved": moved, "work": "copy"}}
            seconds = 1.0 if i else 2.0
            replicates[-1].append(Replicate(warm, [seconds * (1 + r / 100)] * 4, last=last))
    return Outcome(sides, replace(PLAN, canary_limit=limit), replicates, [[], []], [False, False])


def test_a_machine_that_moved_marks_its_figures_and_sets_nothing_aside() -> None:
    outcome = outcome_of([[0.03, 0.0, 0.5, 0.0], [0.0, 0.04, 0.0, 0.0]])
    records = list(figures.records_of(outcome, ["throughput", "throughput_ratio"], [None, 0]))
    assert [r.metric for r in records] == ["throughput", "throughput", "throughput_ratio"]
    for record in records:
        assert record.valid
        assert record.n == 4
        assert record.noise == 0.5
    assert records[0].moved == (0.03, 0.0, 0.5, 0.0)
    assert any("the machine moved in 3 of 4 rounds, by 50% at most (the canary's copy beside tiny" in note
               for note in records[0].notes)  # fmt: skip
    last = outcome.replicates[0][3]
    assert last is not None
    last.last = {}
    assert outcome.clean() == [], "of a round whose canary has not been read again nothing is known"
    calm = outcome_of([[0.03, 0.0, 0.5, 0.0], [0.0, 0.04, 0.0, 0.0]], limit=0.6)
    assert all(r.noise is None for r in figures.records_of(calm, ["throughput", "throughput_ratio"], [None, 0]))


def test_the_interval_widens_where_calm_rounds_say_something_else() -> None:
    moved = [0.0, 0.0, 0.5, 0.5]
    ratios = []
    for limit in (1.0, 0.02):
        outcome = outcome_of([moved, [0.0] * 4], limit)
        for r in (2, 3):  # side 0 is slower by 20 % while the machine moves
            disturbed = outcome.replicates[0][r]
            assert disturbed is not None
            disturbed.blocks = [1.2 * seconds for seconds in disturbed.blocks]
        ratio = outcome.ratio(1, 0)
        assert ratio is not None
        ratios.append(ratio)
    calm, noisy = ratios
    assert calm.value == noisy.value == pytest.approx(2 * math.sqrt(1.2))
    assert math.log(noisy.hi / calm.hi) == pytest.approx(math.log(1.2) / 2)
    assert noisy.lo < 2 < noisy.hi, "what the calm rounds say lies within"


def test_a_side_that_lost_a_process_is_shown_from_the_other_rounds() -> None:
    outcome = outcome_of([[0.0, 0.5], [0.0, 0.5]])
    outcome.replicates[0][0] = None
    outcome.failures[0].append("killed by SIGKILL")
    lost, other, ratio = figures.records_of(outcome, ["throughput", "throughput_ratio"], [None, 0])
    assert lost.value == pytest.approx(2 / 2.02)
    assert lost.valid
    assert "1 process lost: killed by SIGKILL" in lost.notes
    assert other.n == 2
    assert ratio.value == pytest.approx(2.0)
    assert not ratio.valid
    assert ratio.reasons == ("a single round has no interval",)


def test_a_round_with_one_odd_process_is_set_aside_and_told() -> None:
    outcome = outcome_of([[0.0] * 5, [0.0] * 5])
    odd = outcome.replicates[0][1]
    assert odd is not None
    odd.blocks = [3 * seconds for seconds in odd.blocks]
    record, _ = figures.records_of(outcome, ["throughput"], [None, None])
    assert record.valid
    assert record.n == 4
    assert any("round 2 set aside" in note for note in record.notes)


def test_rounds_end_with_the_time() -> None:
    *_, outcome = measure([side("tiny"), side("tiny")], replace(PLAN, rounds=9, seconds=0.0))
    assert outcome.rounds == 2, "fewer have no interval"


def test_the_first_rounds_decide_how_many_there_are() -> None:
    outcome = outcome_of([[0.0] * 4, [0.0] * 4])
    assert rounds_wanted(outcome, 0.05) == 4, "they agree"
    odd = outcome.replicates[0][0]
    assert odd is not None
    odd.blocks = [1.1 * seconds for seconds in odd.blocks]
    assert rounds_wanted(outcome, 0.05) == math.ceil((3.1824 * math.log(1.1) / 2 / math.log(1.05)) ** 2)
    assert rounds_wanted(outcome, 1.0) == 4
    *_, measured = measure([side("tiny"), side("tiny")], replace(PLAN, rounds=2, precision=5.0))
    assert measured.first == 2


def test_the_turns_of_a_round_take_about_as_long_whatever_a_call_takes() -> None:
    plan = Plan(turns=10, block=0.1)
    assert turns_of([0.01, 0.02], plan) == 10
    assert turns_of([0.1, 0.3], plan) == 6
    assert turns_of([0.3, 0.75], plan) == 2
    assert turns_of([20.0, 30.0], plan) == 2
    assert turns_of([], plan) == 10


def test_more_turns_follow_where_neighbouring_blocks_disagree() -> None:
    """Three sides; the second's blocks lie far apart, until enough of them agree on the middle."""
    even, wild = ([Replicate({"batch": 1}, blocks=list(blocks)) for blocks in sides] for sides in _BLOCKS)
    assert settled(even)
    assert not settled(wild)
    assert settled([wild[0], wild[2]]), "the first agrees with the last"
    for replicate, seconds in zip(wild, (0.1, 0.3, 0.2), strict=True):
        replicate.blocks += [seconds] * 12
    assert settled(wild)
    assert settled(wild[:1]), "a single side has no ratio"
    many = replace(PLAN, rounds=1, turns=2, most_turns=6)
    sides = [side("tiny"), side("tiny_uneven")]
    *_, outcome = measure(sides, many)
    assert [len(one.blocks) for (one,) in outcome.replicates if one] == [6, 6]


_BLOCKS = (
    ([0.1, 0.1], [0.3, 0.31], [0.2, 0.2]),
    ([0.1, 0.1], [0.2, 0.4], [0.2, 0.2]),
)


def test_figures_are_known_before_a_round_has_ended() -> None:
    """The line comes before the canaries and the profile; what is done meanwhile is done while processes load."""
    events: list[str] = []
    run = measure(
        [side("tiny"), side("tiny")],
        replace(PLAN, rounds=1),
        events.append,
        known=lambda line: events.append("known: " + line),
        meanwhile=lambda: events.append("meanwhile"),
    )
    list(run)
    words = [event.split(", ")[-1] if not event.startswith("known") else "known" for event in events]
    assert words == ["meanwhile", *["loading"] * 2, *["warming up"] * 2, *["block 1"] * 2, *["block 2"] * 2, "known",
                     *["canary"] * 2]  # fmt: skip
    assert "after 1 round" in next(event for event in events if event.startswith("known"))


def test_what_is_known_so_far_is_one_line() -> None:
    assert outcome_of([[0.0], [0.0]]).interim() == "tiny deploy 1, tiny deploy 2 images/s; 0.50x after 1 round"
    line = outcome_of([[0.0] * 3, [0.0] * 3]).interim()
    assert line == "tiny deploy 0.99, tiny deploy 1.98 images/s; 0.50x [0.50, 0.50] after 3 rounds"


def test_energy_is_not_claimed_where_nothing_tells_it() -> None:
    (record, _) = figures.records_of(outcome_of([[0.0], [0.0]]), ["energy"], [None, None])
    assert record.value is None
    assert not record.valid
    assert "no energy counter" in record.reasons[0]
