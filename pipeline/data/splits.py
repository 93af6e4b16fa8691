"""Train, validation and test: what belongs together is never split apart, and each part looks like the whole.

*Cases of one group, or of one set of near-duplicates, always lie in one split.*
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import isclose, log2

from pipeline.errors import ConfigError
from pipeline.types import Case, Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")
Stratum = tuple[str, ...]


def split_cases(
    cases: Sequence[Case],
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    together: Iterable[Iterable[str]] = (),
) -> tuple[Case, ...]:
    """Give every labelled case a split, stratified by modality and size.

    Parameters
    ----------
    cases : sequence of Case
        Cases with the same non-empty `group` stay together. Unlabelled cases keep the split `unlabelled`.
    fractions : (train, val, test)
        Parts of the cases; must add up to 1.
    seed : int
        The same cases and seed give the same splits, in whatever order the cases come.
    together : iterable of iterables of case ids
        More that must not be split apart, such as near-duplicates. Ids that are not among the cases are ignored.

    Returns
    -------
    tuple of Case
        The cases in their own order, with `split` set.

    Raises
    ------
    ConfigError
        The fractions are negative or do not add up to 1.

    Notes
    -----
    Groups are placed largest first, each where it brings the counts nearest to the wanted ones (squared distance,
    summed over strata), which is the iterative stratification of Sechidis et al. (2011) with groups for cases.
    """
    if any(f < 0 for f in fractions) or not isclose(sum(fractions), 1, abs_tol=1e-6):
        raise ConfigError("fractions", str(fractions), "three parts that add up to 1", "give for example 0.7 0.15 0.15")
    labelled = [case for case in cases if case.mask_kind != "none"]
    chosen: dict[str, Split] = {}
    for unit, split in _place(_units(labelled, together), fractions, seed):
        chosen.update((case.id, split) for case in unit)
    return tuple(replace(case, split=chosen.get(case.id, "unlabelled")) for case in cases)


def name_groups(cases: Sequence[Case], together: Iterable[Iterable[str]]) -> tuple[Case, ...]:
    """Give cases that belong together, but have no group of their own, their first one's id as group.

    >>> from pathlib import Path
    >>> a, b, c = (Case(k, Path(k), k) for k in "abc")
    >>> [case.group for case in name_groups([a, b, c], [{"c", "a"}])]
    ['a', '', 'a']
    """
    names: dict[str, str] = {}
    for ids in together:
        members = sorted(ids)
        names.update(dict.fromkeys(members, members[0]))
    return tuple(case if case.group else replace(case, group=names.get(case.id, "")) for case in cases)


def size_class(shape: tuple[int, ...]) -> int:
    """Half octaves of the mean side length: 256 x 256 and 256 x 320 are one class, 360 x 360 is the next.

    >>> [size_class(s) for s in [(256, 256), (256, 320), (360, 360), (512, 512)]]
    [16, 16, 17, 18]
    """
    area = shape[-1] * shape[-2] if len(shape) >= 2 else 1
    return round(log2(max(area, 1)))


def _strata(case: Case) -> tuple[Stratum, ...]:
    """What a case counts for: its modality and size, its modality, and the whole."""
    return (case.modality, str(size_class(case.shape))), (case.modality,), ()


def _units(cases: Sequence[Case], together: Iterable[Iterable[str]]) -> list[list[Case]]:
    """The smallest sets of cases that may be placed on their own (union-find over groups and `together`)."""
    parent = {case.id: case.id for case in cases}

    def find(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    links: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        if case.group:
            links[case.group].append(case.id)
    for ids in [*links.values(), *([i for i in ids if i in parent] for ids in together)]:
        for other in ids[1:]:
            a, b = sorted((find(ids[0]), find(other)))
            parent[b] = a
    units: dict[str, list[Case]] = defaultdict(list)
    for case in sorted(cases, key=lambda case: case.id):
        units[find(case.id)].append(case)
    return list(units.values())


def _place(units: list[list[Case]], fractions: Sequence[float], seed: int) -> Iterable[tuple[list[Case], Split]]:
    """Largest first, ties by a hash of seed and name, so that one case more does not shuffle all the others."""
    total = Counter(stratum for unit in units for case in unit for stratum in _strata(case))
    current: dict[Split, Counter[Stratum]] = {split: Counter() for split in SPLITS}

    def draw(unit: list[Case]) -> tuple[int, str]:
        return -len(unit), hashlib.sha256(f"{seed}:{unit[0].id}".encode()).hexdigest()

    for unit in sorted(units, key=draw):
        adds = Counter(stratum for case in unit for stratum in _strata(case))
        costs = {
            split: _cost(adds, current[split], total, fraction)
            for split, fraction in zip(SPLITS, fractions, strict=True)
            if fraction > 0
        }
        best = min(costs, key=lambda split: costs[split])
        current[best].update(adds)
        yield unit, best


def _cost(
    adds: Mapping[Stratum, int], current: Mapping[Stratum, int], total: Mapping[Stratum, int], fraction: float
) -> float:
    """How much further from (or, negative, nearer to) its wanted counts a split comes by taking `adds`."""
    return sum(
        ((current[k] + n - total[k] * fraction) ** 2 - (current[k] - total[k] * fraction) ** 2) / total[k]
        for k, n in adds.items()
    )
