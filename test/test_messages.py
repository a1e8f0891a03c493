"""What people read: an interval; one line of what members say with numbers of their own."""

import pytest

from model.messages import describe_interval, merge_messages

FAR = "rna.json: {} of 1,200 genes lie more than 10 sd from training; is the scale 'log' right?"
MISSING = "rna.json: {} genes set to the training mean: {}"
KEYS = "cd.json: expected one of {} as a key, found 'alter', 'T1' and 2 more"
UNKNOWN = "cd.json: stage: expected one of {}, found 'T4'"
MEAN = "cd.json: psa: 1e+09 lies more than 10 sd from the training mean {}"


@pytest.mark.parametrize(
    ("messages", "merged"),
    [
        ([], []),
        (["one", "two", "one"], ["one", "two"]),
        ([FAR.format("60")] * 5, [FAR.format("60")]),
        ([FAR.format(n) for n in ("60", "1,012", "311")], [FAR.format("60 to 1,012")]),
        ([MEAN.format(n) for n in ("-0.5", "0.25", "-1.5")], [MEAN.format("-1.5 to 0.25")]),
        ([MEAN.format(n) for n in ("1.25e+03", "998")], [MEAN.format("998 to 1.25e+03")]),
        (
            [MISSING.format(2, "A1BG, TP53"), MISSING.format(1, "HLA-A")],
            [MISSING.format("1 to 2", "A1BG, TP53")],
        ),
        (
            [MISSING.format(7, "A, B, C, D, E and 2 more"), MISSING.format(5, "A, B, C, D, E")],
            [MISSING.format("5 to 7", "A, B, C, D, E and 2 more")],
        ),
        (
            [UNKNOWN.format("t1, ta"), UNKNOWN.format("t1, t2, ta"), UNKNOWN.format("2, 10")],
            [UNKNOWN.format("t1, t2, ta")],
        ),
        (
            [KEYS.format("age, sex and 1 more"), KEYS.format("age")],
            [KEYS.format("age, sex and 1 more")],
        ),
        ([MEAN.format(5), FAR.format(1), MEAN.format(6)], [MEAN.format("5 to 6"), FAR.format(1)]),
    ],
)
def test_messages_that_differ_in_numbers_or_lists_are_joined(
    messages: list[str], merged: list[str]
) -> None:
    assert merge_messages(messages) == merged


@pytest.mark.parametrize(
    "messages",
    [
        [
            "cd.json: age: expected a number, found 'old'",
            "cd.json: bmi: expected a number, found 1",
        ],
        ["/a/C1_RNA.json: bad", "/a/C2_RNA.json: bad"],
        ["T1.tif: no tissue", "T2.tif: no tissue"],
        ["a: … of 5", "b: … of 5"],
        # Columns whose names differ in a number, and dates.
        [f"cd.json: PSA {n}: expected a number, found '{n} ng'" for n in (1, 2)],
        [f"cd.json: PSA {n}: 9 lies more than 10 sd from the training mean 3" for n in (1, 2)],
        [f"cd.json: day: expected a number, found '0{n}.12.2020'" for n in (1, 2)],
    ],
)
def test_messages_of_other_things_stay_apart(messages: list[str]) -> None:
    assert merge_messages(messages) == messages


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((7.24, 60.0), "7.2 to 60.0"),
        ((7.24, 103.0), "7.2 to 103.0 or later"),
        ((103.0, 103.0), "not before 103.0, the end of the follow-up"),
    ],
)
def test_an_interval_that_the_follow_up_ends_says_so(ends: tuple[float, float], said: str) -> None:
    assert describe_interval(ends, 103.0) == said
