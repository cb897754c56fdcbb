"""The page about types: its programs run.  What type checkers say of them is in C{tests/test_typing.py}."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest
from twisted.internet.task import Clock

from smtphooks import OptionError, Options, SMTPServerFactory, hooktypes, optiontypes
from smtphooks.errors import OptionWarning
from smtphooks.hooktable import HOOKS
from tests.pages import DOCS, blocksOf, define
from tests.support import Client

PAGE = "typing.rst"
TEXT = (DOCS / PAGE).read_text()


def test_the_hooks_take_mail(tmp_path: Path) -> None:
    factory = define(PAGE, "mail.py", tmp_path).factory
    factory.clock = Clock()
    client = Client(factory)
    assert client.last("EHLO client.test", "MAIL FROM:<ann@client.test>", "RCPT TO:<joe@elsewhere.test>")[:3] == "550"
    assert client.last("RCPT TO:<joe@example.org>", "DATA", "Subject: hi", "", "text", ".") == (
        "250 2.0.0 Got 21 octets"
    )


def test_options_are_handed_on(tmp_path: Path) -> None:
    found = define(PAGE, "listeners.py", tmp_path)
    assert found.plain.options.size == found.submission.options.size == 26_214_400
    assert found.submission.options.authMethods == ("PLAIN", "SCRAM-SHA-256")


def test_what_is_wrong_is_found_by_the_factory_too_where_it_looks(tmp_path: Path) -> None:
    found = define(PAGE, "wrong.py", tmp_path)
    with pytest.raises(OptionError, match="unknown option sise, did you mean size"):
        found.factories()
    SMTPServerFactory(found.Half())


def test_the_names_of_types_are_there() -> None:
    named = set(re.findall(r"``(?:smtphooks\.\w+\.)?((?:On[A-Z]|Object)\w+|[A-Z]\w+Options)``", TEXT))
    assert {
        "OnRcptTo",
        "OnData",
        "ObjectOfHooks",
        "FactoryOptions",
        "ServerOptions",
        "HostOptions",
        "TLSOptions",
    } <= named
    for name in named:
        assert hasattr(optiontypes, name) or hasattr(hooktypes, name)


def test_the_table_of_results_names_the_hooks_whose_result_is_used() -> None:
    table = TEXT[TEXT.index("What may be answered") : TEXT.index("What is wrong here")]
    assert set(re.findall(r"``(on\w+|filterData)``", table)) == {
        *(name for name, hook in HOOKS.items() if hook.isResultUsed),
        "filterData",
    }


def test_the_warning_is_the_one_shown_and_the_bounds_are_those_of_the_options() -> None:
    (shown,) = [block.text.strip() for block in blocksOf(PAGE, "text")]
    with pytest.warns(OptionWarning, match=re.escape(shown)):
        SMTPServerFactory(onData=lambda stream, session: None, socketTimeout=60000)
    most = {field.name: field.metadata["mostSeconds"] for field in attrs.fields(Options) if "Timeout" in field.name}
    assert most.pop("dataTimeout") == 2 * 86400
    assert set(most.values()) == {3600}
    others = attrs.fields_dict(Options)
    assert [others[name].metadata["mostSeconds"] for name in ("greetDelay", "slowHook")] == [300, 120]
