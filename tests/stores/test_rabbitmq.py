"""The options of the store RabbitMQ: what is wrong is said where the store is made, and no secret with it."""

import importlib.util

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from smtphooks.errors import OptionError
from smtphooks.session import Address, Envelope, Session
from smtphooks.stores import RabbitMQ
from smtphooks.stores.claims import FolderClaims
from smtphooks.stores.s3 import S3Claims
from tests.layers.scanners import Message
from tests.secrets import PASSWORD, TOKEN

URL = "amqp://mx.example"
SECURE = "amqps://mx.example"


def test_the_url_may_be_one_or_several_and_come_first():
    assert RabbitMQ(URL).url == RabbitMQ(url=[URL]).url == (URL,)
    assert RabbitMQ([URL, "amqps://other.example"], exchange="mail", routingKey="").url[1] == "amqps://other.example"


@pytest.mark.parametrize(
    "options, part",
    [
        ({"url": "http://mx.example"}, "option url"),
        ({"url": []}, "option url"),
        ({"url": None}, "option url"),
        ({}, "option url is missing"),
        ({"url": URL, "routingKey": "x" * 256}, "option routingKey"),
        ({"url": URL, "exchange": None}, "option exchange"),
        ({"url": URL, "exchange": "mail", "declare": True}, "option declare"),
        ({"url": URL, "routingKey": "", "declare": True}, "option declare"),
        ({"url": URL, "claims": 1}, "option claims"),
        ({"url": URL, "claims": "/nowhere/to/be/found"}, "option claims"),
        (
            {"url": URL, "claims": {"url": "https://s3.example/bucket"}},
            "option claims is wrong: option accessKey is missing",
        ),
        ({"url": "mx.example"}, "option url is (no URL of a node), it wants"),
        ({"url": [SECURE, "mx.example"]}, f"option url is ('{SECURE}', (no URL of a node)), it wants"),
        ({"url": URL, "ca": "/nowhere/ca.pem"}, "option ca is given, and no URL that begins with amqps:"),
        ({"url": SECURE, "ca": "/nowhere/ca.pem"}, "option ca is '/nowhere/ca.pem' (No such file or directory)"),
        ({"url": [URL, SECURE], "ca": "-----BEGIN NOTHING"}, "no readable certificate in it"),
        ({"url": URL, "confirmTimeout": -1}, "option confirmTimeout"),
        ({"url": URL, "maxMessageSize": -1}, "option maxMessageSize"),
    ],
)
def test_wrong_options_are_named(options, part):
    with pytest.raises(OptionError) as caught:
        RabbitMQ(**options)
    assert part in str(caught.value)


def test_no_secret_is_shown(tmp_path):
    claims = {"url": "https://s3.example/bucket", "accessKey": "AKID", "secretKey": TOKEN}
    store = RabbitMQ(f"amqp://ann:{PASSWORD}@mx.example", claims=claims)
    assert "ann:(not shown)@mx.example" in repr(store)
    assert TOKEN not in repr(store) and PASSWORD not in repr(store)
    for options in (
        {"url": [URL, f"http://ann:{PASSWORD}@mx.example"]},
        {"url": URL, "claims": {**claims, "region": None}},
        {"url": URL, "claims": [claims]},
    ):
        with pytest.raises(OptionError) as caught:
            RabbitMQ(**options)
        assert PASSWORD not in str(caught.value) and TOKEN not in str(caught.value)


def test_claims_are_a_folder_a_bucket_or_an_object(tmp_path):
    assert isinstance(RabbitMQ(URL, claims=str(tmp_path)).claims, FolderClaims)
    claims = RabbitMQ(URL, claims={"url": "https://s3.example/bucket", "accessKey": "A", "secretKey": "B"}).claims
    assert isinstance(claims, S3Claims)
    assert RabbitMQ(URL, claims=claims).claims is claims


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError) as caught:
        RabbitMQ(URL)
    assert "smtphooks[rabbitmq]" in str(caught.value)


# --- a message that is no whole one never comes to a broker ---


class NoBroker:
    async def link(self):
        raise AssertionError("asked for a link")


async def failureOf(message):
    store = RabbitMQ(URL)
    store._publisher = NoBroker()
    with pytest.raises(Exception) as caught:
        await store.onData(message, Session(localName="mx.example", envelope=Envelope(Address(""), [Address("a@b.c")])))
    return caught.value


@ensureDeferred
async def test_a_message_above_the_size_of_the_server_is_not_published():
    message = Message(isWhole=False, size=100)
    message.append(b"x" * 101)
    assert (await failureOf(message)).responseCode == 552


@ensureDeferred
async def test_a_message_that_was_cut_is_not_published():
    message = Message(b"Subject: x\r\n", isWhole=False)
    message.fail(Failure(ConnectionLost()))
    assert isinstance(await failureOf(message), ConnectionLost)
