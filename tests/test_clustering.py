import numpy as np
import pytest

from tas_lib import clustering
from tas_lib.clustering import Clusters


def same_grouping(a: np.ndarray, b: np.ndarray) -> bool:
    return len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(set(a.tolist())) == len(set(b.tolist()))


@pytest.mark.parametrize("spherical", [True, False])
def test_every_query_is_in_the_cluster_of_its_nearest_centroid(spherical):
    vecs = np.random.default_rng(0).normal(size=(200, 4))
    clusters = clustering.kmeans(vecs, 7, spherical=spherical)
    if spherical:
        expected = (vecs @ clusters.centroids.T).argmax(axis=1)
        np.testing.assert_allclose(np.linalg.norm(clusters.centroids, axis=1), 1, rtol=1e-5)
    else:
        expected = ((vecs[:, None] - clusters.centroids) ** 2).sum(axis=-1).argmin(axis=1)
    assert clusters.assignment.tolist() == expected.tolist()


@pytest.mark.parametrize("spherical", [True, False])
def test_centroids_settle_at_the_means_of_their_clusters(spherical):
    rng = np.random.default_rng(0)
    vecs = rng.normal(size=(120, 3)) * rng.lognormal(sigma=2, size=(120, 1))  # lengths far apart
    clusters = clustering.kmeans(vecs, 4, spherical=spherical, iterations=100)
    for queries, centroid in zip(clusters.members, clusters.centroids, strict=True):
        mean = vecs[queries].mean(axis=0)
        expected = mean / np.linalg.norm(mean) if spherical else mean
        np.testing.assert_allclose(centroid, expected, rtol=1e-3, atol=1e-3)


def test_a_long_query_stays_with_its_direction_only_if_spherical():
    # two directions; one query of the second is 100 times as long, and Euclidean k-means gives it its own cluster
    rng = np.random.default_rng(0)
    direction = np.repeat([0, 1], 20)
    vecs = np.eye(2)[direction] + rng.normal(scale=0.01, size=(40, 2))
    vecs[-1] *= 100
    spherical = clustering.kmeans(vecs, 2, spherical=True, seed=3)
    euclidean = clustering.kmeans(vecs, 2, spherical=False, seed=3)
    assert same_grouping(spherical.assignment, direction)
    assert sorted(euclidean.sizes) == [1, 39]


def test_the_same_seed_gives_the_same_clusters_and_another_gives_others():
    vecs = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    one, again, other = (clustering.kmeans(vecs, 10, seed=seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one.assignment, again.assignment)
    np.testing.assert_array_equal(one.centroids, again.centroids)
    assert not same_grouping(one.assignment, other.assignment)


def test_clusters_hold_every_query_once_and_may_be_empty():
    clusters = clustering.kmeans(np.random.default_rng(0).normal(size=(100, 4)), 9)
    assert sorted(np.concatenate(clusters.members)) == list(range(100))
    assert [len(queries) for queries in clusters.members] == clusters.sizes.tolist()
    clusters = clustering.kmeans(np.repeat(np.eye(2, 4), 10, axis=0), 5)  # two different queries
    assert (len(clusters.members), clusters.sizes.sum(), (clusters.sizes > 0).sum()) == (5, 20, 2)


def test_as_many_clusters_as_queries_give_each_its_own_and_more_are_refused():
    vecs = np.eye(4) * [[1], [2], [3], [400]]
    spherical, euclidean = (clustering.kmeans(vecs, 4, spherical=spherical) for spherical in (True, False))
    assert spherical.sizes.tolist() == euclidean.sizes.tolist() == [1, 1, 1, 1]
    np.testing.assert_allclose(np.linalg.norm(spherical.centroids, axis=1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="^cannot make 5 clusters of 4 queries: ask for fewer clusters$"):
        clustering.kmeans(vecs, 5)


def test_nearest_queries_are_the_clusters_own_by_angle():
    # cluster 0 points along x: query 2 exactly, 0 nearly, 3 less so; query 1 is in cluster 1
    vecs = np.array([[2.0, 0.1], [9.0, 0.0], [0.5, 0.0], [90.0, 30.0]])
    clusters = Clusters(np.array([0, 1, 0, 0]), np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert clustering.nearest(clusters, vecs, 0, 2).tolist() == [2, 0]
    assert clustering.nearest(clusters, vecs, 0, 9).tolist() == [2, 0, 3]
    assert clustering.nearest(clusters, vecs, 1, 3).tolist() == [1]
