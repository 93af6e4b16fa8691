"""Train, validation and test: what belongs together is never split apart, and each part looks like the whole.

*Cases of one group, or of one set of near-duplicates, always lie in one split.*
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from math import isclose, log2
from typing import TypeVar

from pipeline.errors import ConfigError
from pipeline.types import Case, Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")
Stratum = tuple[str, ...]
Part = TypeVar("Part", bound=Hashable)


def split_cases(
    cases: Sequence[Case],
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    together: Iterable[Iterable[str]] = (),
    contiguous: bool = False,
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
    contiguous : bool
        The cases are slices of a stack: in the order of their numbers, the first are train, then val, then test, so
        that a slice's neighbours are not learnt from while it is tested (but for those at the seams).

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
    summed over strata), which is the iterative stratification of Sechidis et al. (2011) with groups for cases. Where
    there are few, a wanted part that stayed empty is given one group of the largest part.
    """
    if any(f < 0 for f in fractions) or not isclose(sum(fractions), 1, abs_tol=1e-6):
        raise ConfigError("fractions", str(fractions), "three parts that add up to 1", "give for example 0.7 0.15 0.15")
    labelled = [case for case in cases if case.mask_kind != "none"]
    wanted = dict(zip(SPLITS, fractions, strict=True))
    units = _units(labelled, together)
    placed = _fill(list(_in_order(units, wanted) if contiguous else _place(units, wanted, seed)), wanted)
    chosen = {case.id: split for unit, split in placed for case in unit}
    return tuple(replace(case, split=chosen.get(case.id, "unlabelled")) for case in cases)


def fold_cases(
    cases: Sequence[Case], folds: int, seed: int = 0, validation: float = 0.15
) -> tuple[tuple[Case, ...], ...]:
    """The cases of each of `folds` trainings: every labelled case is `test` in exactly one of them.

    Folds are grouped and stratified like splits. Of what a fold does not test, the part `validation` is `val`, the
    rest `train`. Raises ConfigError for fewer than 2 folds or fewer sets of cases that may be parted than folds.
    """
    labelled = [case for case in cases if case.mask_kind != "none"]
    units = _units(labelled, ())
    if not 2 <= folds <= len(units):
        raise ConfigError(
            "folds", str(folds), f"2 to {len(units)}, the groups and single images there are", "ask for fewer, or more"
        )
    part = {case.id: k for unit, k in _place(units, dict.fromkeys(range(folds), 1 / folds), seed) for case in unit}

    def fold(number: int) -> tuple[Case, ...]:
        rest = [case for case in labelled if part[case.id] != number]
        learned = {case.id: case.split for case in split_cases(rest, (1 - validation, validation, 0.0), seed)}
        tested: dict[str, Split] = {case.id: "test" for case in labelled if part[case.id] == number}
        return tuple(replace(case, split=(learned | tested).get(case.id, "unlabelled")) for case in cases)

    return tuple(fold(number) for number in range(folds))


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


def _place(units: list[list[Case]], parts: Mapping[Part, float], seed: int) -> Iterable[tuple[list[Case], Part]]:
    """Largest first, ties by a hash of seed and name, so that one case more does not shuffle all the others."""
    total = Counter(stratum for unit in units for case in unit for stratum in _strata(case))
    current: dict[Part, Counter[Stratum]] = {part: Counter() for part in parts}

    def draw(unit: list[Case]) -> tuple[int, str]:
        return -len(unit), hashlib.sha256(f"{seed}:{unit[0].id}".encode()).hexdigest()

    for unit in sorted(units, key=draw):
        adds = Counter(stratum for case in unit for stratum in _strata(case))
        costs = {part: _cost(adds, current[part], total, size) for part, size in parts.items() if size > 0}
        best = min(costs, key=lambda part: costs[part])
        current[best].update(adds)
        yield unit, best


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in names by their value.

    >>> sorted(["z10", "z9", "a2"], key=natural)
    ['a2', 'z9', 'z10']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _in_order(units: list[list[Case]], wanted: Mapping[Split, float]) -> Iterable[tuple[list[Case], Split]]:
    """Whole units by their first case's name; a part begins where those before it have all they are to have."""
    total, given = sum(map(len, units)), 0
    for unit in sorted(units, key=lambda unit: min(natural(case.id) for case in unit)):
        ends = zip(wanted, accumulate(wanted.values()), strict=True)
        yield unit, next(split for split, end in ends if given + len(unit) / 2 < end * total or split == SPLITS[-1])
        given += len(unit)


def _fill(placed: list[tuple[list[Case], Split]], wanted: Mapping[Split, float]) -> list[tuple[list[Case], Split]]:
    """Give each wanted split that stayed empty the last (smallest) unit of the one with most, while it has two."""
    for empty in (split for split, part in wanted.items() if part > 0):
        number = Counter(split for _, split in placed)
        if number and not number[empty]:
            giver, most = number.most_common(1)[0]
            if most > 1:
                last = max(i for i, (_, split) in enumerate(placed) if split == giver)
                placed[last] = placed[last][0], empty
    return placed


def _cost(
    adds: Mapping[Stratum, int], current: Mapping[Stratum, int], total: Mapping[Stratum, int], fraction: float
) -> float:
    """How much further from (or, negative, nearer to) its wanted counts a split comes by taking `adds`."""
    return sum(
        ((current[k] + n - total[k] * fraction) ** 2 - (current[k] - total[k] * fraction) ** 2) / total[k]
        for k, n in adds.items()
    )
