"""The solutions of the exercises, for lecturers: one function per exercise, under the name of its stub.

`check` compares a student's function with the one here, and `./run_all.sh editions` puts it into the stub's cell of the
lecturers' edition. So it uses only what its notebook imports.
"""

import numpy as np
import torch

from tas_lib import sampling

# 00 start here


def my_ranking(passages):
    """Passage ids of {id: score} by falling score, then falling id."""
    return sorted(passages, key=lambda p: (passages[p], p), reverse=True)


def my_reciprocal_rank(ranking, relevant, k):
    """What MRR@k averages over queries."""
    return max((1 / rank for rank, p in enumerate(ranking[:k], 1) if p in relevant), default=0.0)


# 01 collection


def my_alike(a, b, threshold):
    """True where the Jaccard similarity of the texts' three-word shingles is at least the threshold."""
    of_a, of_b = ({*zip(words, words[1:], words[2:], strict=False)} for words in (a.split(), b.split()))
    return len(of_a & of_b) >= threshold * len(of_a | of_b)


def my_weight(n_passages, n_with_the_word):
    """The first factor of BM25, Lucene's variant."""
    return np.log(1 + (n_passages - n_with_the_word + 0.5) / (n_with_the_word + 0.5))


# 02 models


def my_late_interaction(query, passage):
    """Eq. 3 for token vectors (M, D) and (N, D)."""
    return (query @ passage.T).max(dim=1).values.sum()


def my_cat_ids(query, passage):
    """Token ids of a pair, as a list."""
    return query + passage[1:]


# 03 losses


def my_gradient(student, margins):
    """(B, 2B): the derivative of Eq. 6 in each of the student's scores."""
    b, own = len(student), torch.arange(len(student))
    error = student[own, own] - student[own, b + own] - margins  # (B,)
    gradient = torch.zeros_like(student)
    gradient[own, own], gradient[own, b + own] = 2 / b * error, -2 / b * error
    return gradient


def my_tempered_listnet(student, teacher, temperature):
    """-Σ t log s, where t and s are the shares at this temperature."""
    shares = (teacher / temperature).softmax(dim=1)
    return -(shares * (student / temperature).log_softmax(dim=1)).sum(dim=1).mean()


# 04 clustering


def my_nearest(vecs, centroid, n):
    """Indices of the n vectors that point most nearly where the centroid points, best first."""
    cosines = vecs @ centroid / np.linalg.norm(vecs, axis=1)
    return np.argsort(-cosines)[:n]


def my_topic(members, b, rng):
    """b different queries of one cluster; all clusters that have b are equally likely."""
    large = [queries for queries in members if len(queries) >= b]
    return rng.choice(large[rng.integers(len(large))], b, replace=False)


# 05 sampling


def my_balanced_pair(margins, h, rng):
    """The index of the pair that is drawn."""
    width = (margins.max() - margins.min()) / h
    ranges = np.minimum((margins - margins.min()) // width, h - 1)
    return rng.choice(np.flatnonzero(ranges == rng.choice(np.unique(ranges))))


def my_repair(members, b, rng):
    """b queries, as the suspect promises them."""
    own = members[rng.integers(len(members))]
    batch = rng.choice(own, min(b, len(own)), replace=False)
    others = np.setdiff1d(np.concatenate(members), batch)
    return np.append(batch, rng.choice(others, b - len(batch), replace=False))


# 06 training


def my_dual(pair, crossed, alpha):
    """Eq. 8 in one line."""
    return pair + crossed * alpha


# 07 latency


def my_tail(times):
    """One number of the list."""
    return sorted(times)[-(len(times) // 100) - 1]


def my_least_ms(n, width, gb_s):
    """Bytes over bandwidth."""
    return 1e3 * 2 * n * width / (gb_s * 1e9)


# 08 losses compared


def my_first_share(teacher, k):
    """A number from 0 to 1."""
    return float(teacher.softmax(dim=1).topk(k, dim=1).values.sum(dim=1).mean())


# 09 ablation


def my_wins(a, b):
    """The share of queries whose value in `a` is larger than in `b`."""
    return sum(a[query] > b[query] for query in a) / len(a)


# 10 robustness


def my_deviation(values):
    """Of a list of two numbers or more."""
    return float(np.std(values, ddof=1))


# 11 dense compared


def my_fellows(members, b):
    """The mean, over a batch, of how many other queries of its own cluster a query meets in it."""
    batch = sampling.cluster_queries(members, [b], np.random.default_rng(0))
    sizes = np.array([np.isin(queries, batch).sum() for queries in members])
    return (sizes * (sizes - 1)).sum() / b


# 12 pipelines


def my_fusion(dense, sparse, alpha):
    """passage → α · sparse + dense; in any order."""
    lowest = min(dense.values()), min(sparse.values())
    return {p: dense.get(p, lowest[0]) + alpha * sparse.get(p, lowest[1]) for p in dense | sparse}


# 13 claims


def my_holm(p_values):
    """The adjusted p values, in the order given."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(np.argsort(p_values)):
        largest = adjusted[i] = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
    return adjusted


# 14 deviations


def my_bound(deviation):
    """The smallest difference that counts."""
    return 2.776 * 2**0.5 * deviation


# 15 your trainer


def my_number(epoch, steps, i):
    """The step whose batch it is."""
    return epoch * steps + i
