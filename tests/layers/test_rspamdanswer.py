"""Answers of rspamd: what is read from them, and that nothing that is half understood is a verdict."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.layers.exchange import ScannerFault
from smtphooks.layers.fields import Addition
from smtphooks.layers.rspamdanswer import readVerdict

PLAIN = {"action": "no action", "score": 0.5}


def response(body, status="200 OK", **fields):
    octets = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Content-Length": len(octets), **fields}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + octets


def verdict(**members):
    return readVerdict(response({**PLAIN, **members}))


def fault(octets):
    with pytest.raises(ScannerFault) as caught:
        readVerdict(octets)
    return str(caught.value)


def test_a_plain_answer():
    read = verdict()
    assert (read.action, read.score, read.requiredScore) == ("no action", 0.5, None)
    assert (read.symbols, read.message, read.subject, read.isNoAction) == ({}, None, None, False)
    assert (read.removals, read.additions, read.notApplied) == ((), (), ())


def test_an_answer_of_rspamd_3_4():
    read = readVerdict(
        response(
            b'{"is_skipped":false,"score":8.300000,"required_score":15.0,"action":"add header","symbols":{"T_ENV":'
            b'{"name":"T_ENV","score":0.100000,"metric_score":0.100000,"options":["from="]},"B":{"name":"B","score":-1.0}},'
            b'"messages":{"smtp_message":"Spam"},"message-id":"undef","time_real":0.000304}'
        )
    )
    assert (read.action, read.score, read.requiredScore, read.message) == ("add header", 8.3, 15.0, "Spam")
    assert read.symbols == {"T_ENV": 0.1, "B": -1.0}


def test_a_body_in_chunks():
    assert (
        readVerdict(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b'10\r\n{"action":"no ac\r\n11\r\ntion","score":0.5\r\n1\r\n}\r\n0\r\n\r\n'
        )
        == verdict()
    )


def test_a_body_that_ends_with_the_connection():
    assert readVerdict(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(PLAIN).encode()) == verdict()


def test_empty_tables_of_Lua_may_be_arrays():
    assert verdict(symbols=[], messages=[], milter={"add_headers": [], "remove_headers": []}) == verdict()


@pytest.mark.parametrize(
    "value, additions",
    [
        ("v", [Addition("X", "v", -1)]),
        (1.5, [Addition("X", "1.5", -1)]),
        (["v", "w"], [Addition("X", "v", -1), Addition("X", "w", -1)]),
        ({"value": "v"}, [Addition("X", "v", -1)]),
        ({"value": "v", "order": 0}, [Addition("X", "v", 0)]),
        ({"value": "v", "order": -1}, [Addition("X", "v", -1)]),
        ({"value": "v", "index": 2}, [Addition("X", "v", 2)]),
        ([{"value": "v", "order": 1}, "w"], [Addition("X", "v", 1), Addition("X", "w", -1)]),
        ([], []),
    ],
)
def test_fields_to_be_added_come_in_several_forms(value, additions):
    assert list(verdict(milter={"add_headers": {"X": value}}).additions) == additions


@pytest.mark.parametrize("value, numbers", [(0, [0]), (-1, [-1]), ([1, 2], [1, 2]), (1.0, [1]), ([], [])])
def test_fields_to_be_removed_come_in_two_forms(value, numbers):
    assert verdict(milter={"remove_headers": {"X": value}}).removals == tuple(("X", number) for number in numbers)


@pytest.mark.parametrize("value, count", [("v=1; a", 1), (["v=1; a", "v=1; b"], 2), ([], 0)])
def test_signatures_are_put_on_top(value, count):
    additions = verdict(**{"dkim-signature": value}).additions
    assert [(addition.name, addition.position) for addition in additions] == [("DKIM-Signature", 0)] * count


def test_what_a_layer_cannot_do_is_named():
    assert verdict(milter={"del_rcpt": ["a@b"], "change_from": "x@y"}).notApplied == ("change_from", "del_rcpt")


def test_that_nothing_shall_be_done_is_read():
    assert verdict(milter={"no_action": True}).isNoAction


@pytest.mark.parametrize(
    "octets, said",
    [
        (b"", "answers no whole HTTP response: RemoteDisconnected"),
        (b"\xff\xfe", "answers no whole HTTP response: BadStatusLine"),
        (b"HTTP/1.1 200 OK", "answers something else than JSON: b''"),
        (response(PLAIN)[:-1], "answers no whole HTTP response: IncompleteRead"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{",
            "answers no whole HTTP response: IncompleteRead",
        ),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000, "answers no whole HTTP response: LineTooLong"),
        (response({}, "403 Forbidden"), "answers 403 Forbidden"),
        (response({}, "500 in\xff\x1bvalid"), r"answers 500 in\xc3\xbf\x1bvalid"),
        (response(PLAIN, "204 No Content"), "answers 204 No Content"),
        (response(b"[" * 100_000), f"answers something else than JSON: {b'[' * 100!r}"),
        (response(b"no"), "answers something else than JSON: b'no'"),
        (response(b"\xff"), r"answers something else than JSON: b'\xff'"),
        (response(b"[1]"), "answers nonsense: the answer is no object"),
        (response(b"null"), "answers nonsense: the answer is no object"),
        (response({"score": 1}), "answers nonsense: the answer has no action"),
        (response({"action": None, "score": 1}), "answers nonsense: the answer has no action"),
        (response({"action": ["reject"], "score": 1}), "answers nonsense: action in the answer is no text"),
        (response({"action": "reject"}), "answers nonsense: the answer has no score"),
        (response({"action": "reject", "score": "1"}), "answers nonsense: score in the answer is no number"),
        (response({"action": "reject", "score": True}), "answers nonsense: score in the answer is no number"),
        (response(b'{"action": "reject", "score": NaN}'), "answers nonsense: score in the answer is no number"),
        (response(b'{"action": "reject", "score": 1e999}'), "answers nonsense: score in the answer is no number"),
    ],
)
def test_what_is_no_verdict_is_a_fault(octets, said):
    assert fault(octets) == said


@pytest.mark.parametrize(
    "members",
    [
        {"symbols": "x"},
        {"symbols": {"A": 1}},
        {"symbols": {"A": {"score": "x"}}},
        {"messages": {"smtp_message": 1}},
        {"subject": 1},
        {"milter": 1},
        {"milter": {"no_action": "yes"}},
        {"milter": {"remove_headers": {"X": "1"}}},
        {"milter": {"remove_headers": {"X": 1.5}}},
        {"milter": {"remove_headers": {"X": True}}},
        {"milter": {"remove_headers": {"X Y": 1}}},
        {"milter": {"add_headers": {"X": None}}},
        {"milter": {"add_headers": {"X": True}}},
        {"milter": {"add_headers": {"X": {"order": 1}}}},
        {"milter": {"add_headers": {"X": {"value": "v", "order": "1"}}}},
        {"milter": {"add_headers": {"X": {"value": ["v"]}}}},
        {"milter": {"add_headers": {"X: y\r\nBcc": "v"}}},
        {"milter": {"add_headers": ["v"]}},
        {"dkim-signature": 1},
    ],
)
def test_a_verdict_that_is_half_understood_is_none(members):
    assert fault(response({**PLAIN, **members})).startswith("answers nonsense: ")


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["value", "order", "X", "score"]), inner)
    ),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {"action": st.just("reject") | _JSON, "score": st.just(1) | _JSON},
        optional={
            "symbols": _JSON,
            "messages": _JSON,
            "dkim-signature": _JSON,
            "milter": st.fixed_dictionaries({}, optional={"add_headers": _JSON, "remove_headers": _JSON}),
        },
    )
)
def test_any_answer_is_a_verdict_or_a_fault(members):
    with suppress(ScannerFault):
        readVerdict(response(members))


@given(st.binary(max_size=200) | st.binary(max_size=200).map(b"HTTP/1.1 200 OK\r\n".__add__))
def test_any_octets_are_a_verdict_or_a_fault(octets):
    with suppress(ScannerFault):
        readVerdict(octets)
