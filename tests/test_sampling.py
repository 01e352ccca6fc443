import math
import pickle
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tas_lib import config, sampling
from tas_lib.records import Pairs

STRATEGIES = ["random", "tas", "tas_balanced", "hard_margin"]
CLUSTERED = STRATEGIES[1:]


def table(*margins: list[float]) -> Pairs:
    """Pairs whose margins are given query by query; the negative's number is the pair's row."""
    flat = [m for of_query in margins for m in of_query]
    query = np.repeat(np.arange(len(margins)), [len(m) for m in margins])
    return Pairs.sort(len(margins), query, query + 1000, np.arange(len(flat)), np.array(flat, np.float32))


def even(n_queries: int, n_pairs: int = 4) -> Pairs:
    return table(*[[float(m) for m in range(n_pairs)]] * n_queries)


def split(*sizes: int) -> list[np.ndarray]:
    """Clusters of these sizes over queries 0, 1, 2, ..."""
    return np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])


def assignment_of(members: list[np.ndarray]) -> np.ndarray:
    """The cluster of each query."""
    return np.repeat(np.arange(len(members)), [len(queries) for queries in members])


def make(strategy: str, pairs: Pairs, members: list[np.ndarray], seed: int = 1, **settings: float) -> sampling.Sampler:
    return sampling.make_sampler(strategy, pairs, members, config.Sampling(**settings), seed)


def spread(counts: Counter, keys: range) -> float:
    """Chi-square of counts against equal frequencies, in standard deviations above its mean."""
    expected = counts.total() / len(keys)
    chi2 = sum((counts[key] - expected) ** 2 / expected for key in keys)
    return (chi2 - (len(keys) - 1)) / math.sqrt(2 * (len(keys) - 1))


# A batch is a function of (seed, step)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_step_gives_the_same_batch_in_any_order_and_in_any_process(strategy):
    one, other = (make(strategy, even(60), split(20, 25, 15), batch_size=8) for _ in range(2))
    forwards = {step: one.batch(step) for step in range(6)}
    sent = pickle.loads(pickle.dumps(other))
    for step in reversed(range(6)):
        for ours, again, theirs in zip(forwards[step], other.batch(step), sent.batch(step), strict=True):
            np.testing.assert_array_equal(ours, again)
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_batches_of_many_steps_are_those_of_each_step_byte_for_byte(strategy):
    sampler = make(strategy, even(60), split(20, 25, 15), batch_size=8)
    for step, together in zip(range(3, 40), sampler.batches(range(3, 40)), strict=True):
        for ours, alone in zip(together, sampler.batch(step), strict=True):
            assert (ours.dtype, ours.tobytes()) == (alone.dtype, alone.tobytes())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_another_seed_or_another_step_gives_another_batch(strategy):
    samplers = [make(strategy, even(60), split(20, 25, 15), seed, batch_size=8) for seed in range(3)]
    batches = [sampler.batch(step) for sampler in samplers for step in range(3)]
    assert len({tuple(batch.queries) for batch in batches}) == 9


def test_neighbouring_steps_share_queries_as_often_as_chance_has_it():
    sampler = make("random", even(1000, 1), [], batch_size=32)
    batches = [set(sampler.batch(step).queries.tolist()) for step in range(401)]
    shared = sum(len(a & b) for a, b in pairwise(batches))
    # 400 neighbours, each 32 · 32 / 1000 = 1.024 on average: 410, standard deviation about 20
    assert 330 < shared < 490


# Every batch


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_pair_belongs_to_its_query_and_keeps_its_margin(strategy):
    pairs, members = table([3.0, 1.0], [2.0, 2.0, 5.0], [4.0], [0.0, 9.0]), split(2, 2)
    owner = np.repeat(np.arange(4), np.diff(pairs.offsets))
    row_of = {negative: row for row, negative in enumerate(pairs.neg.tolist())}
    for step in range(50):
        batch = make(strategy, pairs, members, batch_size=3).batch(step)
        rows = [row_of[negative] for negative in batch.neg.tolist()]
        assert owner[rows].tolist() == batch.queries.tolist()
        assert pairs.pos[rows].tolist() == batch.pos.tolist()
        assert pairs.margins[rows].tolist() == batch.margins.tolist()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_query_without_pairs_is_never_drawn(strategy):
    pairs = table([], [1.0], [], [2.0, 3.0], [4.0], [])
    sampler = make(strategy, pairs, split(1, 2, 3), batch_size=2)  # the first cluster has no query with pairs
    assert {query for step in range(200) for query in sampler.batch(step).queries.tolist()} == {1, 3, 4}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_query_is_drawn_twice_for_a_batch_whatever_the_sizes(data):
    sizes = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(sum))
    b = data.draw(st.integers(1, sum(sizes)))
    n = data.draw(st.integers(1, min(b, sum(size > 0 for size in sizes))))
    strategy = data.draw(st.sampled_from(STRATEGIES))
    sampler = make(strategy, even(sum(sizes), 3), split(*sizes), batch_size=b, clusters_per_batch=n)
    for step in range(3):
        queries = sampler.batch(step).queries
        assert len(queries) == len(set(queries.tolist())) == b


# Queries


def test_random_sampling_draws_every_query_equally_often():
    sampler = make("random", even(100), [], batch_size=10)
    counts = Counter(query for step in range(2000) for query in sampler.batch(step).queries.tolist())
    assert spread(counts, range(100)) < 4


def test_a_batch_comes_from_one_cluster_and_all_clusters_are_drawn_equally_often():
    members = split(10, 40, 10, 20)
    sampler, assignment = make("tas", even(80), members, batch_size=8), assignment_of(members)
    drawn = [set(assignment[sampler.batch(step).queries].tolist()) for step in range(2000)]
    assert {len(clusters) for clusters in drawn} == {1}
    assert spread(Counter(cluster for clusters in drawn for cluster in clusters), range(4)) < 4


def test_the_queries_of_a_cluster_are_drawn_equally_often():
    sampler = make("tas", even(40), split(40), batch_size=5)
    counts = Counter(query for step in range(2000) for query in sampler.batch(step).queries.tolist())
    assert spread(counts, range(40)) < 4


def test_several_clusters_give_equal_shares_and_the_last_the_remainder():
    members = split(*[20] * 6)
    sampler, assignment = make("tas", even(120), members, batch_size=8, clusters_per_batch=3), assignment_of(members)
    for step in range(100):
        # ⌊8/3⌋ = 2 of two clusters, 2 + 2 of the third
        assert sorted(Counter(assignment[sampler.batch(step).queries].tolist()).values()) == [2, 2, 4]


def test_a_small_cluster_is_taken_whole_and_topped_up_from_further_clusters():
    members = split(3, 30, 30)
    sampler, assignment = make("tas", even(63), members, batch_size=8), assignment_of(members)
    shapes = Counter(
        tuple(sorted(Counter(assignment[sampler.batch(step).queries].tolist()).items())) for step in range(600)
    )
    assert set(shapes) == {((1, 8),), ((2, 8),), ((0, 3), (1, 5)), ((0, 3), (2, 5))}
    # the small one comes first one time in three; then either large one fills up equally often
    assert 160 < shapes[((0, 3), (1, 5))] + shapes[((0, 3), (2, 5))] < 240
    assert 70 < shapes[((0, 3), (1, 5))] < 130


def test_when_all_clusters_have_given_their_share_the_rest_comes_from_what_is_left_in_them():
    # n = 2 of 2 clusters: 3 of each, but the small one has only 1, so the large one gives 5
    sampler = make("tas", even(10), split(1, 9), batch_size=6, clusters_per_batch=2)
    for step in range(50):
        assert 0 in sampler.batch(step).queries


def test_mixed_share_by_hand():
    batches = [sampling.Batch(np.array(queries), *[np.empty(0)] * 3) for queries in ([0, 1], [0, 2], [0, 3])]
    assignment = np.array([0, 0, 1, 2])
    assert sampling.mixed_share(batches, assignment) == pytest.approx(2 / 3)
    assert sampling.mixed_share(batches, assignment, clusters_per_batch=2) == 0


# Pairs


def margins_drawn(strategy: str, margins: list[float], steps: int = 2000, **settings: float) -> Counter:
    sampler = make(strategy, table(margins), split(1), batch_size=1, **settings)
    return Counter(float(sampler.batch(step).margins[0]) for step in range(steps))


@pytest.mark.parametrize("strategy", ["random", "tas"])
def test_any_pair_of_a_query_is_drawn_equally_often(strategy):
    assert spread(margins_drawn(strategy, [float(m) for m in range(20)]), range(20)) < 4


def test_balanced_sampling_draws_filled_ranges_equally_often_and_no_others():
    # ranges of width 1 over 0..10: 0 holds one pair, 3 three, 4 one, 9 two (9.5 and the closed end, 10)
    margins = [0.0, 3.0, 3.2, 3.9, 4.0, 9.5, 10.0]
    counts = margins_drawn("tas_balanced", margins, steps=4000)
    assert spread(Counter({0: counts[0.0], 1: counts[4.0]}), range(2)) < 4
    by_range = Counter(int(min(margin, 9.5)) for margin in counts.elements())
    assert set(by_range) == {0, 3, 4, 9}
    assert spread(Counter({i: by_range[r] for i, r in enumerate(sorted(by_range))}), range(4)) < 4
    within = Counter({i: counts[float(np.float32(m))] for i, m in enumerate([3.0, 3.2, 3.9])})
    assert spread(within, range(3)) < 4


@pytest.mark.parametrize("margins", [[4.2], [0.1] * 7])
def test_a_query_with_one_pair_or_equal_margins_is_one_range(margins):
    pairs = table(margins)
    assert (np.diff(sampling.bin_bounds(pairs, np.array([0]), 10)) > 0).sum() == 1
    sampler = make("tas_balanced", pairs, split(1), batch_size=1)
    counts = Counter(int(sampler.batch(step).neg[0]) for step in range(700))
    assert set(counts) == set(range(len(margins)))
    assert len(margins) == 1 or spread(counts, range(len(margins))) < 4


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_fewer_queries_are_a_sample_that_larger_samples_contain(strategy):
    pairs, members = table(*([1.0, 2.0] for _ in range(12))), split(6, 6)
    seen = []
    for queries in (4, 8, 0):
        sampler = make(strategy, pairs, members, batch_size=2, queries=queries)
        seen.append({int(query) for step in range(200) for query in sampler.batch(step).queries})
    assert [len(some) for some in seen] == [4, 8, 12] and seen[0] < seen[1]


def test_hard_margin_draws_no_pair_above_the_cap_and_no_query_that_has_only_such():
    pairs = table([1.0, 6.0, 6.5, 20.0], [7.0, 8.0], [-2.0], [3.0, 3.0, 9.0])
    sampler = make("hard_margin", pairs, split(2, 2), batch_size=2, margin_cap=6.0)
    drawn = {
        (int(query), float(margin))
        for batch in map(sampler.batch, range(300))
        for query, margin in zip(batch.queries, batch.margins, strict=True)
    }
    assert drawn == {(0, 1.0), (0, 6.0), (2, -2.0), (3, 3.0)}


# Margin ranges


def ranges_by_the_paper(margins: list[float], h: int) -> list[int]:
    """Eq. 12 by a literal loop, the first inequality turned round and the last range closed (D5)."""
    low, m = min(margins), (max(margins) - min(margins)) / h
    return [
        next((i for i in range(h) if low + i * m <= x < low + (i + 1) * m), h - 1)  # only the largest is in none
        for x in margins
    ]


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(st.integers(0, 64), min_size=1, max_size=30).map(sorted),
    offset=st.integers(-20, 20),
    h=st.sampled_from([1, 2, 4, 8]),
)
def test_ranges_equal_the_loop_over_eq_12(steps, offset, h):
    steps = [0, *steps, 64]  # a width that h divides, so that the loop's sums are exact
    margins = [offset + step / 4 for step in steps]
    pairs = table([], margins, [5.0])
    expected = ranges_by_the_paper(margins, h)
    queries, own = np.full(len(margins), 1), pairs.margins[: len(margins)]
    assert sampling.bin_numbers(pairs, queries, own, h).tolist() == expected
    assert sampling.bin_numbers(pairs, 1, own, h).tolist() == expected
    bounds = sampling.bin_bounds(pairs, np.array([1, 2]), h)
    assert np.repeat(np.arange(h), np.diff(bounds[0])).tolist() == expected
    assert bounds[1].tolist() == [len(margins)] * h + [len(margins) + 1]


# Impossible batches


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_batch_larger_than_the_pool_is_refused(strategy):
    with pytest.raises(ValueError, match=f"a batch has 3 different queries, but {strategy} sampling has 2"):
        make(strategy, table([1.0], [], [2.0]), split(3), batch_size=3)
    with pytest.raises(ValueError, match="but hard_margin sampling has 1 to draw from"):  # 7 is above the cap
        make("hard_margin", table([1.0], [7.0]), split(2), batch_size=2)


@pytest.mark.parametrize("strategy", CLUSTERED)
def test_more_clusters_per_batch_than_clusters_or_queries_are_refused(strategy):
    with pytest.raises(ValueError, match="3 clusters per batch, but a batch has 4 queries, and 2 clusters have pairs"):
        make(strategy, even(9), split(4, 5, 0), batch_size=4, clusters_per_batch=3)
    with pytest.raises(ValueError, match="3 clusters per batch, but a batch has 2 queries, and 3 clusters have pairs"):
        make(strategy, even(9), split(4, 4, 1), batch_size=2, clusters_per_batch=3)


# At the paper's size


def test_a_pair_table_on_disk_is_not_copied(tmp_path):
    pairs = even(500)
    for name, array in pairs._asdict().items():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = Pairs(*(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in Pairs._fields))
    for strategy in STRATEGIES:
        sampler = make(strategy, mapped, split(200, 300))
        for ours, on_disk in zip(sampler.pairs, mapped, strict=True):
            assert np.shares_memory(ours, on_disk)
        batch, in_memory = sampler.batch(3), make(strategy, pairs, split(200, 300)).batch(3)
        assert all((a == b).all() for a, b in zip(batch, in_memory, strict=True))
