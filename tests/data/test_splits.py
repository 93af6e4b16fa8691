from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.splits import fold_cases, name_groups, size_class, split_cases
from pipeline.errors import ConfigError
from pipeline.types import Case


def case(name: str, modality: str = "fluorescence", shape=(256, 256), group: str = "", kind: str = "instances") -> Case:
    return Case(name, Path(name), name, mask_kind=kind, modality=modality, shape=shape, group=group)


def counts(cases) -> dict[str, int]:
    return dict(Counter(c.split for c in cases))


def test_twenty_alike_are_split_as_told():
    """14, 3 and 3 of twenty."""
    assert counts(split_cases([case(f"{k:02d}") for k in range(20)])) == {"train": 14, "val": 3, "test": 3}


@pytest.mark.parametrize(
    ("number", "expected"), [(1, {"train": 1}), (2, {"train": 1, "val": 1}), (3, {"train": 1, "val": 1, "test": 1})]
)
def test_few_cases_leave_no_part_empty_that_could_have_one(number, expected):
    """One image can only be learnt from; the second validates, the third tests."""
    assert counts(split_cases([case(str(k)) for k in range(number)])) == expected


def test_every_stratum_is_split_as_told():
    """Modalities and sizes each get their share, not only the whole."""
    cases = [case(f"{m}{s}{k}", m, (s, s)) for m in ("fluorescence", "stained") for s in (256, 512) for k in range(20)]
    by_stratum = defaultdict(list)
    for c in split_cases(cases):
        by_stratum[c.modality, c.shape].append(c)
    assert len(by_stratum) == 4
    assert all(counts(part) == {"train": 14, "val": 3, "test": 3} for part in by_stratum.values())


def test_the_rare_ones_go_to_training_first():
    """Of two grey bright images none is lost to a test split that cannot be learnt for."""
    cases = [case(f"f{k}") for k in range(40)] + [case(f"g{k}", "grey_bright") for k in range(2)]
    assert {c.split for c in split_cases(cases) if c.modality == "grey_bright"} == {"train"}


case_lists = st.lists(
    st.tuples(
        st.sampled_from(["fluorescence", "stained"]), st.sampled_from([64, 256, 1024]), st.sampled_from(["", *"pqrst"])
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=60)
@given(case_lists, st.integers(0, 5), st.randoms(use_true_random=False))
def test_cases_of_one_group_or_of_one_set_of_near_duplicates_always_lie_in_one_split(drawn, seed, random):
    """For any cases, groups and sets; and the order of the cases does not matter."""
    cases = [case(f"{k:02d}", m, (s, s), g) for k, (m, s, g) in enumerate(drawn)]
    together = [random.sample([c.id for c in cases], min(3, len(cases))) for _ in range(2)]
    split = split_cases(cases, seed=seed, together=[*together, ["not there", cases[0].id]])
    by_id = {c.id: c.split for c in split}
    for ids in together:
        assert len({by_id[i] for i in ids}) == 1
    for group in set("pqrst"):
        assert len({c.split for c in split if c.group == group}) <= 1
    shuffled = random.sample(cases, len(cases))
    assert {c.id: c.split for c in split_cases(shuffled, seed=seed, together=together)} == by_id
    assert [replace(c, split="unlabelled") for c in split] == cases


def test_groups_and_sets_chain():
    """a and b by group, b and c by likeness, c and d by group: one unit of four, among others."""
    cases = [case("a", group="p"), case("b", group="p"), case("c", group="q"), case("d", group="q")]
    cases += [case(f"x{k}") for k in range(20)]
    split = split_cases(cases, together=[("b", "c")])
    assert len({c.split for c in split[:4]}) == 1 and len({c.split for c in split}) == 3


def test_the_seed_decides():
    """The same seed gives the same split, another one another."""
    cases = [case(f"{k:02d}") for k in range(40)]
    assert split_cases(cases, seed=1) == split_cases(cases, seed=1) != split_cases(cases, seed=2)


def test_one_case_more_leaves_most_where_they_were():
    """Ties are broken by a hash of the name, not by the place in the list."""
    cases = [case(f"{k:03d}") for k in range(200)]
    before, after = split_cases(cases), split_cases([case("-new"), *cases])[1:]
    assert sum(a.split == b.split for a, b in zip(before, after, strict=True)) > 140  # by chance 107


def test_unlabelled_cases_stay_out():
    """They are neither split nor counted."""
    split = split_cases([case("u", kind="none"), *(case(f"{k}") for k in range(20))])
    assert split[0].split == "unlabelled" and counts(split[1:]) == {"train": 14, "val": 3, "test": 3}
    assert split_cases([]) == ()


def test_a_split_of_nothing_gets_nothing():
    """Fraction 0 is obeyed even for the last case."""
    assert counts(split_cases([case(f"{k}") for k in range(7)], (0.0, 0.0, 1.0))) == {"test": 7}


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.2), (1.2, -0.1, -0.1), (0, 0, 0)])
def test_fractions_must_add_up(fractions):
    """Too little, negative, nothing."""
    with pytest.raises(ConfigError, match="add up to 1"):
        split_cases([case("a")], fractions)


def test_groups_are_named_once():
    """Sets lend their first id to cases without a group; a group that is there stays."""
    cases = [case("c"), case("a"), case("b", group="own"), case("d")]
    assert [c.group for c in name_groups(cases, [{"a", "b", "c"}])] == ["a", "a", "own", ""]


def test_size_classes():
    """Half octaves of the side; a case without a size has a class too."""
    assert [size_class(s) for s in ((256, 256), (181, 362), (3, 256, 256), (1024, 1024), (0, 5), ())] == [
        16,
        16,
        16,
        20,
        0,
        0,
    ]


def test_every_case_is_tested_in_exactly_one_fold():
    """Folds part the labelled cases; groups are never parted, in no fold and between no two of its splits."""
    cases = [
        case(f"{m}{k}", m, (256, 256), group=f"{m}g{k // 3}") for m in ("fluorescence", "stained") for k in range(30)
    ]
    cases.append(case("bare", "unknown", (9, 9), kind="none"))
    folds = fold_cases(cases, 5, seed=1)
    tested = [c.id for fold in folds for c in fold if c.split == "test"]
    assert sorted(tested) == sorted(c.id for c in cases if c.id != "bare")
    for fold in folds:
        assert [c.id for c in fold] == [c.id for c in cases]
        where = defaultdict(set)
        for c in fold:
            where[c.group].add(c.split)
        assert all(len(splits) == 1 for splits in where.values())
        counts = Counter((c.modality, c.split) for c in fold)
        assert counts["fluorescence", "test"] == counts["stained", "test"] == 6
        assert 3 <= counts["stained", "val"] <= 6 and counts["unknown", "unlabelled"] == 1
    assert fold_cases(cases, 5, seed=1) == folds != fold_cases(cases, 5, seed=2)


@pytest.mark.parametrize("folds", [1, 4])
def test_impossible_folds_are_refused(folds):
    """One fold leaves nothing to learn from; more folds than groups leave some without a test."""
    cases = [case(f"{k}", "stained", (256, 256), group=f"g{k % 3}") for k in range(9)]
    with pytest.raises(ConfigError, match="2 to 3"):
        fold_cases(cases, folds)


def test_slices_of_a_stack_are_held_out_in_runs():
    """Thirty slices, 9 before 10: the first 21 train, then 4 validate and 5 test, whatever the order they come in."""
    cases = [case(f"image/{k}") for k in sorted(range(30), key=str)]
    split = {int(c.id[6:]): c.split for c in split_cases(cases, (0.7, 0.14, 0.16), contiguous=True)}
    assert [split[k] for k in range(30)] == ["train"] * 21 + ["val"] * 4 + ["test"] * 5


def test_runs_keep_groups_whole():
    """Two planes of one specimen at a seam stay together, though one slice more is then in training."""
    cases = [case(f"z{k}", group="both" if k in (6, 7) else "") for k in range(10)]
    split = {c.id: c.split for c in split_cases(cases, (0.7, 0.2, 0.1), contiguous=True)}
    assert split["z6"] == split["z7"] == "val" and split["z5"] == "train" and split["z9"] == "test"
    assert split["z8"] in ("val", "test")
