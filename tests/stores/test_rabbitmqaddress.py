"""The URL of a node, and what of it may be shown."""

import pytest

from smtphooks.stores.rabbitmqaddress import addressOf, isURL, withoutPassword
from tests.secrets import PASSWORD


@pytest.mark.parametrize(
    "url, parts",
    [
        ("amqp://mx.example", ("mx.example", 5672, False, "guest", "guest", "/")),
        ("amqps://mx.example/", ("mx.example", 5671, True, "guest", "guest", "/")),
        ("amqp://ann:pass%2Fword@[::1]:5673/%2Fmail", ("::1", 5673, False, "ann", "pass/word", "/mail")),
        ("amqp://ann@mx.example/mail", ("mx.example", 5672, False, "ann", "", "mail")),
    ],
)
def test_a_url_has_an_address(url, parts):
    address = addressOf(url)
    assert (
        address.host,
        address.port,
        address.isSecure,
        address.user,
        address.password,
        address.virtualHost,
    ) == parts
    assert isURL(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mx.example:5672",
        "http://mx.example",
        "amqp://",
        "amqp://mx.example:99999",
        "amqp://mx.example:0",
        "amqp://mx.example/a/b",
        "amqp://mx.example/?heartbeat=1",
        "amqp://mx.example/\n",
        None,
        1,
    ],
)
def test_anything_else_is_no_url(url):
    assert not isURL(url)


def test_no_password_is_shown():
    url = f"amqp://ann:{PASSWORD}@mx.example:5673/mail"
    assert withoutPassword(url) == "amqp://ann:(not shown)@mx.example:5673/mail"
    assert PASSWORD not in repr(addressOf(url)) + str(addressOf(url)) + str(withoutPassword(f"http://{PASSWORD}"))
    assert withoutPassword("amqp://ann@mx.example") == "amqp://ann@mx.example"
    assert (str(addressOf(url)), str(addressOf("amqp://[::1]"))) == ("mx.example:5673", "[::1]:5672")
