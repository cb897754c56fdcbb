"""Domain names: lower case, A-labels, and what is no name."""

from __future__ import annotations

import idna
import pytest

from smtphooks.layers.authentication.domains import isSubdomain, maybeDomain


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("localhost", "localhost"),
        ("_a.x-y.example", "_a.x-y.example"),
        ("20240101", "20240101"),
        ("B\u00dcCHER.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("\uff45xample.com", "example.com"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
        ("", None),
        (".", None),
        ("example.com..", None),
        (".example.com", None),
        ("a..b", None),
        ("-a.example", None),
        ("a-.example", None),
        ("a b.example", None),
        ("a(b).example", None),
        ("a\n.example", None),
        ("example.com\n", None),
        ("\u2603\ufffd.example", None),
        ("a" * 64 + ".example", None),
        ("a." * 126 + "bb", None),
        ("a." * 126 + "b", "a." * 126 + "b"),
    ],
)
def test_a_text_is_a_name_or_none(text: str, name: str | None) -> None:
    assert maybeDomain(text) == name


def test_a_long_text_is_not_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idna, "encode", lambda *arguments, **named: pytest.fail("it was converted"))
    assert maybeDomain("\u00fc" * 256) is None


def test_a_subdomain_ends_with_a_whole_label() -> None:
    assert isSubdomain("a.example", "a.example")
    assert isSubdomain("b.a.example", "a.example")
    assert not isSubdomain("ba.example", "a.example")
    assert not isSubdomain("example", "a.example")
