"""What objects on Redis have in common: their options."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smtphooks import OptionError
from smtphooks.layers import RedisCounts, RedisTriplets
from tests.certificates import Authority
from tests.secrets import PASSWORD

URL = "redis://127.0.0.1:6379"


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({}, 'option url is missing, it wants "redis://host:port/db", "rediss://…" or "unix:///path"'),
        ({"url": "127.0.0.1"}, "option url is (no URL of Redis), it wants"),
        ({"url": []}, "option url is (), it wants"),
        ({"url": 6379}, "option url is (of type int), it wants"),
        ({"url": URL, "sentinels": "x"}, "option sentinels is (no URL of Redis), it wants a list of"),
        ({"url": [URL, URL], "sentinels": [URL]}, "option sentinels is given, so option url wants one URL"),
        ({"url": "unix:///a", "sentinels": [URL]}, "option sentinels is given, so option url wants one URL"),
        ({"url": [URL, f"{URL}/1"]}, "option url has several nodes, and a cluster has database 0 alone"),
        ({"url": URL, "prefix": ""}, "option prefix is '', it wants a text of 64 ASCII characters at most"),
        ({"url": URL, "prefix": "{a}"}, "option prefix is '{a}', it wants a text of 64 ASCII characters at most"),
        ({"url": URL, "timeout": 0}, "option timeout is 0, it wants a number of seconds above 0"),
        ({"url": URL, "ca": "/nowhere.pem"}, "option ca is given, and no URL that begins with rediss:"),
        ({"url": "rediss://a", "ca": "/nowhere.pem"}, "option ca is '/nowhere.pem'"),
        ({"url": "rediss://a", "key": "/nowhere.pem"}, "options key and cert are given one without the other"),
        ({"url": URL, "urls": URL}, "unknown option urls, did you mean url?"),
    ],
)
@pytest.mark.parametrize("kind", [RedisCounts, RedisTriplets])
def test_a_wrong_option_is_one_sentence(kind: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError) as caught:
        kind(**options)
    assert str(caught.value).startswith(sentence)


def test_certificates_are_read_when_it_is_made(tmp_path: Path) -> None:
    authority = Authority()
    pair = authority.client("mx")
    RedisCounts("rediss://a", ca=authority.pem, **pair.writeTo(tmp_path, "mx"))
    other = authority.client("other").writeTo(tmp_path, "other")
    with pytest.raises(OptionError):
        RedisCounts("rediss://a", ca=authority.pem, key=other["key"], cert=pair.writeTo(tmp_path, "mx")["cert"])


def test_without_the_library_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError) as caught:
        RedisCounts(URL)
    assert str(caught.value) == (
        "RedisCounts needs a library that is not installed (txredisapi): install smtphooks[redis]"
    )


def test_it_is_imported_without_the_library_and_without_a_reactor() -> None:
    program = (
        "import sys; from smtphooks.layers import RedisCounts; RedisCounts('redis://a');"
        " print('txredisapi' in sys.modules, 'twisted.internet.reactor' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == "False False\n"


def test_no_password_is_shown() -> None:
    made = RedisTriplets([f"redis://:{PASSWORD}@a", f"redis://:{PASSWORD}@b"])
    assert PASSWORD not in repr(made)
    with pytest.raises(OptionError) as caught:
        RedisTriplets([f"redis://:{PASSWORD}@a", f"{PASSWORD}@b"])
    assert PASSWORD not in str(caught.value)
