from collections import Counter

from retreever.data.dataset_splits import assign_split_by_hash


def test_shares_are_as_configured_and_repeat():
    counts = Counter(assign_split_by_hash(f"text {number}") for number in range(5000))
    assert abs(counts["dev"] / 5000 - 0.1) < 0.02
    assert abs(counts["test"] / 5000 - 0.1) < 0.02
    assert [assign_split_by_hash(name) for name in ("a", "b", "h")] == [
        assign_split_by_hash(name) for name in ("a", "b", "h")
    ]


def test_shares_can_be_none_or_all():
    assert {assign_split_by_hash(str(n), dev=0, test=0) for n in range(100)} == {"train"}
    assert {assign_split_by_hash(str(n), dev=1, test=0) for n in range(100)} == {"dev"}
    assert {assign_split_by_hash(str(n), dev=0, test=1) for n in range(100)} == {"test"}


def test_any_string_has_a_split():
    assert assign_split_by_hash("\ud83c") in {"train", "dev", "test"}
