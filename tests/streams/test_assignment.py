"""Who should have which partition: balanced, the same for everybody, and nothing moves that need not."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gridsync.streams._assignment import assign

NAMES = st.sampled_from([f"member-{n}" for n in range(9)])


@st.composite
def tables(draw: st.DrawFn, disputed: bool = False) -> tuple[dict[str, list[int]], int]:  # noqa: FBT001, FBT002
    partitions = draw(st.integers(1, 24))
    members = draw(st.lists(NAMES, min_size=1, unique=True))
    has: dict[str, list[int]] = {member: [] for member in members}
    for partition in range(partitions):
        owners = draw(st.lists(st.sampled_from(members), max_size=2 if disputed else 1, unique=True))
        for owner in owners:
            has[owner].append(partition)
    return has, partitions


@given(tables(disputed=True))
def test_shares_differ_by_one_at_most_and_nothing_is_left_out(table: tuple[dict[str, list[int]], int]):
    has, partitions = table
    target = assign(has, partitions)
    shares = Counter(target.values())
    assert sorted(target) == list(range(partitions))
    assert max(shares.values()) - min(shares[member] for member in has) <= 1
    assert set(shares) <= set(has)


@given(tables())
def test_no_more_partitions_move_than_must(table: tuple[dict[str, list[int]], int]):
    has, partitions = table
    target = assign(has, partitions)
    kept = sum(target[partition] == member for member, mine in has.items() for partition in mine)
    least, more = divmod(partitions, len(has))
    counts = sorted((len(mine) for mine in has.values()), reverse=True)
    assert kept == sum(min(count, least + (rank < more)) for rank, count in enumerate(counts))


@given(tables(disputed=True), st.randoms())
def test_everybody_comes_to_the_same_answer(table: tuple[dict[str, list[int]], int], random: object):
    has, partitions = table
    rows = [(member, random.sample(mine, len(mine))) for member, mine in has.items()]  # type: ignore[attr-defined]
    random.shuffle(rows)  # type: ignore[attr-defined]
    assert assign(dict(rows), partitions) == assign(has, partitions)


@given(tables(), st.randoms())
def test_once_shares_are_even_nothing_moves_any_more_in_whatever_order_it_was_moved(
    table: tuple[dict[str, list[int]], int], random: object
):
    has, partitions = table
    mine = {member: set(each) for member, each in has.items()}
    moves = 0
    while True:
        target = assign(mine, partitions)
        owner = {partition: member for member, each in mine.items() for partition in each}
        wrong = [partition for partition in range(partitions) if owner.get(partition) != target[partition]]
        if not wrong:
            break
        partition = random.choice(wrong)  # type: ignore[attr-defined]
        if partition in owner:
            mine[owner[partition]].discard(partition)
        else:
            mine[target[partition]].add(partition)
        moves += 1
        assert moves <= 2 * partitions
    assert max(map(len, mine.values())) - min(map(len, mine.values())) <= 1


def test_without_members_nobody_has_anything():
    assert assign({}, 4) == {}


def test_what_is_no_partition_is_left_aside():
    assert assign({"a": [7, -1, 0]}, 2) == {0: "a", 1: "a"}
