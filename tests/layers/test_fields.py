"""Changes to headers: what they change, that they change nothing else, and that no value can break out of its field."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.header import areFields
from smtphooks.layers.fields import Addition, HeaderChanges, fieldOctets, isFieldName

HEADER = (
    b"Received: by c\r\n\tfor <x>\r\n"
    b"Subject : one\r\n"
    b"received: by b\r\n"
    b"X-Spam: No\r\n  really\r\n"
    b"RECEIVED: by a\r\n"
    b"\r\n"
)


def removed(*removals, header=HEADER):
    return HeaderChanges(removals=removals).appliedTo(header)


def added(*additions, header=b"A: 1\r\nB: 2\r\n\r\n"):
    return HeaderChanges(additions=[Addition(*addition) for addition in additions]).appliedTo(header)


def test_no_changes_change_nothing():
    assert not HeaderChanges()
    assert HeaderChanges().appliedTo(HEADER) == HEADER


@pytest.mark.parametrize(
    "header", [b"", b"\r\n", b"text\r\n", b" text\r\n", b"A: b", b"A: b\r\ntext\r\n\r\n", b"A: b\n\n"]
)
def test_no_changes_leave_any_octets_alone(header):
    assert HeaderChanges().appliedTo(header) == header


@pytest.mark.parametrize(
    "which, gone",
    [
        (0, [b"Received: by c\r\n\tfor <x>\r\n", b"received: by b\r\n", b"RECEIVED: by a\r\n"]),
        (1, [b"Received: by c\r\n\tfor <x>\r\n"]),
        (2, [b"received: by b\r\n"]),
        (3, [b"RECEIVED: by a\r\n"]),
        (4, []),
        (-1, [b"RECEIVED: by a\r\n"]),
        (-3, [b"Received: by c\r\n\tfor <x>\r\n"]),
        (-4, []),
    ],
)
def test_a_number_says_which_field_of_a_name_goes(which, gone):
    left = HEADER
    for field in gone:
        left = left.replace(field, b"")
    assert removed(("Received", which)) == left


def test_all_numbers_count_the_fields_that_the_message_came_with():
    left = removed(("Received", 1), ("received", 2), ("RECEIVED", 3))
    assert left == removed(("Received", 0))
    assert removed(("Received", 1), ("Received", -3)) == removed(("Received", 1))


def test_a_folded_field_goes_with_all_its_lines():
    assert removed(("x-spam", 0)) == HEADER.replace(b"X-Spam: No\r\n  really\r\n", b"")


def test_a_name_is_not_the_beginning_of_another_one():
    assert removed(("X", 0), ("Subj", 0), ("Received-By", 0)) == HEADER


@pytest.mark.parametrize(
    "position, expected",
    [
        (0, b"X: y\r\nA: 1\r\nB: 2\r\n\r\n"),
        (1, b"A: 1\r\nX: y\r\nB: 2\r\n\r\n"),
        (2, b"A: 1\r\nB: 2\r\nX: y\r\n\r\n"),
        (99, b"A: 1\r\nB: 2\r\nX: y\r\n\r\n"),
        (-1, b"A: 1\r\nB: 2\r\nX: y\r\n\r\n"),
        (-2, b"A: 1\r\nX: y\r\nB: 2\r\n\r\n"),
        (-3, b"X: y\r\nA: 1\r\nB: 2\r\n\r\n"),
        (-99, b"X: y\r\nA: 1\r\nB: 2\r\n\r\n"),
    ],
)
def test_a_field_is_added_at_its_position(position, expected):
    assert added(("X", "y", position)) == expected


def test_a_field_without_a_position_is_the_last_one():
    assert added(("X", "y"), ("Z", "z")) == b"A: 1\r\nB: 2\r\nX: y\r\nZ: z\r\n\r\n"


def test_the_first_field_of_a_name_is_replaced_where_it_is():
    changes = HeaderChanges(replacements=[("A", "x")])
    assert changes.appliedTo(b"B: 1\r\na: 2\r\n 3\r\nA: 4\r\n\r\n") == b"B: 1\r\nA: x\r\nA: 4\r\n\r\n"
    assert changes.appliedTo(b"B: 1\r\n\r\n") == b"B: 1\r\nA: x\r\n\r\n"


def test_removals_come_before_additions():
    changes = HeaderChanges(removals=[("A", 0)], additions=[Addition("A", "mine")])
    assert changes.appliedTo(b"A: forged\r\n\r\n") == b"A: mine\r\n\r\n"


@pytest.mark.parametrize(
    "header, expected",
    [
        (b"", b"X: y\r\n"),
        (b"\r\n", b"X: y\r\n\r\n"),
        (b"text\r\n", b"X: y\r\n\r\ntext\r\n"),
        (b" text\r\n\r\n", b"X: y\r\n\r\n text\r\n\r\n"),
        (b"A: b", b"A: b\r\nX: y\r\n"),
        (b"A: b\r\n c", b"A: b\r\n c\r\nX: y\r\n"),
        (b"A: b\n\n", b"A: b\nX: y\r\n\n"),
        (b"A: b\r\ntext\r\n\r\n", b"A: b\r\nX: y\r\ntext\r\n\r\n"),
    ],
)
def test_a_field_is_added_to_any_header(header, expected):
    assert added(("X", "y"), header=header) == expected


@pytest.mark.parametrize(
    "value, octets",
    [
        ("plain", b"X: plain\r\n"),
        ("", b"X: \r\n"),
        (" spaces ", b"X: spaces\r\n"),
        ("b\r\n\tfolded", b"X: b\r\n\tfolded\r\n"),
        ("b\n\tfolded", b"X: b\r\n\tfolded\r\n"),
        ("b\r\nBcc: x@y", b"X: b\r\n\tBcc: x@y\r\n"),
        ("b\rBcc: x@y", b"X: b\r\n\tBcc: x@y\r\n"),
        ("b\r\n\r\nbody", b"X: b\r\n\tbody\r\n"),
        ("b\r\n \t\r\nbody", b"X: b\r\n\tbody\r\n"),
        ("b\r\n", b"X: b\r\n"),
        ("\r\n\tfolded", b"X: \r\n\tfolded\r\n"),
        ("a\0b\x0bc\x85d\u2028e", b"X: a b c d e\r\n"),
        ("ä\ud800b", "X: ä b\r\n".encode()),
    ],
)
def test_no_value_leaves_its_field(value, octets):
    assert fieldOctets("X", value) == octets


def test_a_line_that_is_too_long_is_folded_at_a_space():
    octets = fieldOctets("X", "word " * 1000)
    assert areFields(octets)
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    assert octets.replace(b"\r\n", b"") == ("X: " + "word " * 1000).rstrip().encode()


@given(
    st.text(max_size=40) | st.text(alphabet="a \t\r\n:ä\ud800", max_size=4000) | st.integers(900, 4000).map("ä".__mul__)
)
def test_whatever_the_value_it_is_one_field_with_lines_that_are_not_too_long(value):
    octets = fieldOctets("X", value)
    assert areFields(octets), octets
    assert len(re.findall(rb"^[^ \t\r\n]", octets, re.MULTILINE)) == 1
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    octets.decode()


@given(
    st.lists(st.sampled_from([b"A: 1\r\n", b"a:\r\n 2\r\n", b"B : 3\r\n", b" 4\r\n", b"text\r\n", b"C: 5\n"])).map(
        b"".join
    ),
    st.lists(st.tuples(st.sampled_from("ABCX"), st.integers(-3, 3)), max_size=3),
)
def test_removals_only_remove_lines(header, removals):
    lines = removed(*removals, header=header + b"\r\n").split(b"\n")
    before = iter((header + b"\r\n").split(b"\n"))
    assert all(line in before for line in lines)


@pytest.mark.parametrize("name", ["X-Spam", "a", "!#$"])
def test_names_of_fields(name):
    assert isFieldName(name)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "ä", "x" * 101, None, 1, "a\n"])
def test_what_is_no_name_of_a_field(name):
    assert not isFieldName(name)
