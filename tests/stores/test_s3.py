"""Claims in S3: signatures as botocore makes them, and a server that checks them and may do anything else."""

import hashlib
from datetime import datetime, timezone
from types import SimpleNamespace

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, LoopingCall, deferLater
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from smtphooks.errors import OptionError
from smtphooks.hooks import Unavailable
from smtphooks.stores.s3 import S3Claims
from smtphooks.stores.s3signature import EMPTY, Credentials, signedHeaders
from tests.layers.scanners import Message, Scanner
from tests.secrets import TOKEN

botocore = pytest.importorskip("botocore")

CONTENT = b"Subject: hello\r\n\r\n" + b"0123456789abcdef" * 50_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
KEY = Credentials("AKIDEXAMPLE", TOKEN, "eu-central-1")


def expected(method, url, digest, time):
    """What botocore signs the request with."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials as Keys

    class Signer(S3SigV4Auth):
        def payload(self, request):
            return digest

    request = AWSRequest(method, url, headers={"X-Amz-Content-SHA256": digest})
    request.context["timestamp"] = time
    signer = Signer(Keys(KEY.accessKey, KEY.secretKey), "s3", KEY.region)
    request.headers["X-Amz-Date"] = time
    text = signer.string_to_sign(request, signer.canonical_request(request))
    scope = f"{KEY.accessKey}/{time[:8]}/{KEY.region}/s3/aws4_request"
    names = signer.signed_headers(signer.headers_to_sign(request))
    return f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={names}, Signature={signer.signature(text, request)}"


@pytest.mark.parametrize(
    "url",
    [
        "https://s3.eu-central-1.amazonaws.com/claims/1.1.eml",
        "https://claims.s3.example:443/1.1.eml",
        "http://127.0.0.1:9000/claims/a%20b/%C3%BC%2B~.eml",
        "http://[::1]:80/claims/1.1-2.eml",
    ],
)
@pytest.mark.parametrize("method, digest", [("PUT", DIGEST), ("GET", EMPTY), ("DELETE", EMPTY)])
def test_a_request_is_signed_as_botocore_does(method, digest, url):
    headers = signedHeaders(KEY, method, url, digest, datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc))
    assert headers["x-amz-date"] == "20260102T030405Z"
    assert headers["Authorization"] == expected(method, url, digest, "20260102T030405Z")
    assert TOKEN not in repr(KEY)


class Bucket(Resource):
    """A service that checks the signature and the digest of each request; C{answer} may answer in its place."""

    isLeaf = True

    def __init__(self):
        super().__init__()
        self.objects = {}
        self.lengths = []
        self.answer = None

    def render(self, request):
        if self.answer is not None:
            return self.answer(request)
        body = request.content.read()
        given = {name: request.getHeader(name) for name in ("authorization", "x-amz-date", "x-amz-content-sha256")}
        url = f"http://{request.getHeader('host')}{request.uri.decode()}"
        digest = hashlib.sha256(body).hexdigest()
        if given["authorization"] != expected(request.method.decode(), url, digest, given["x-amz-date"]):
            request.setResponseCode(403)
            return b"<Error><Code>SignatureDoesNotMatch</Code></Error>"
        if request.method == b"PUT":
            self.lengths.append(request.getHeader("content-length"))
            self.objects[url] = body
            return b""
        if url not in self.objects:
            request.setResponseCode(404)
            return b"<Error><Code>NoSuchKey</Code></Error>"
        if request.method == b"DELETE":
            del self.objects[url]
            request.setResponseCode(204)
            return b""
        return self.objects[url]


@pytest_twisted.async_yield_fixture
async def bucket():
    resource = Bucket()
    port = reactor.listenTCP(0, Site(resource), interface="127.0.0.1")
    resource.url = f"http://127.0.0.1:{port.getHost().port}/claims"
    yield resource
    await port.stopListening()


def claimsIn(bucket, **options):
    return S3Claims(
        **{"url": bucket.url, "region": KEY.region, "accessKey": KEY.accessKey, "secretKey": TOKEN, **options}
    )


async def keep(claims, content=CONTENT, digest=DIGEST):
    spool = await Message(content).spool()
    try:
        return await claims.keep("1.1", spool, digest)
    finally:
        spool.close()


async def contentOf(claims, reference):
    return b"".join([chunk async for chunk in claims.read(reference)])


@ensureDeferred
async def test_a_message_is_kept_until_it_is_dropped(bucket):
    claims = claimsIn(bucket)
    reference = await keep(claims)
    assert bucket.objects == {reference: CONTENT}
    assert bucket.lengths == [str(len(CONTENT))]
    assert reference == f"{bucket.url}/1.1.eml"
    assert await contentOf(claims, reference) == CONTENT
    await claims.drop(reference)
    await claims.drop(reference)
    assert bucket.objects == {}


@ensureDeferred
async def test_other_octets_than_were_signed_are_not_kept(bucket):
    with pytest.raises(Unavailable) as caught:
        await keep(claimsIn(bucket), CONTENT + b"x")
    assert str(caught.value) == f"S3 at {bucket.url} answers PUT with 403 SignatureDoesNotMatch"
    assert bucket.objects == {}


@ensureDeferred
async def test_a_wrong_key_is_a_failure_that_does_not_show_it(bucket):
    with pytest.raises(Unavailable) as caught:
        await keep(claimsIn(bucket, accessKey="OTHER"))
    assert "403 SignatureDoesNotMatch" in str(caught.value)
    assert TOKEN not in str(caught.value) + repr(claimsIn(bucket))


@pytest.mark.parametrize("status", [201, 301, 400, 404, 500, 503])
@ensureDeferred
async def test_another_status_than_200_keeps_nothing(bucket, status):
    def answer(request):
        request.setResponseCode(status)
        request.setHeader("location", bucket.url + "/elsewhere")
        return b"x" * 100_000

    bucket.answer = answer
    with pytest.raises(Unavailable) as caught:
        await keep(claimsIn(bucket))
    assert f"answers PUT with {status}" in str(caught.value)


@ensureDeferred
async def test_a_service_that_hangs_is_left_in_time(bucket):
    bucket.answer = lambda request: NOT_DONE_YET
    with pytest.raises(Unavailable) as caught:
        await keep(claimsIn(bucket, timeout=0.2))
    assert "has not answered within 0.2 seconds" in str(caught.value)

    def answer(request):
        request.setHeader("content-length", "100")
        request.write(b"x")
        return NOT_DONE_YET

    bucket.answer = answer
    with pytest.raises(Unavailable) as caught:
        await contentOf(claimsIn(bucket, timeout=0.2), f"{bucket.url}/1.1.eml")
    assert "nothing for 0.2 seconds" in str(caught.value)


@ensureDeferred
async def test_a_yes_before_the_whole_message_keeps_nothing(logged):
    service = await Scanner().listen()
    content = b"x" * 16_000_000
    claims = claimsIn(SimpleNamespace(url=f"http://127.0.0.1:{service.port}/claims"))
    keeping = Deferred.fromCoroutine(keep(claims, content))
    talk = await service.talk()
    await talk.has(b"xxx")
    talk.transport.pauseProducing()
    talk.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(Unavailable) as caught:
        await keeping
    assert str(caught.value) == f"S3 at {claims.url} answers 200 before it has the whole message"
    talk.transport.resumeProducing()
    await talk.closed
    assert len(talk.received) < len(content)
    await service.stop()


@pytest.mark.parametrize("operation, verb", [(keep, "PUT"), (contentOf, "GET"), (S3Claims.drop, "DELETE")])
@ensureDeferred
async def test_a_service_that_drips_its_refusal_is_left_in_time(bucket, operation, verb):
    drips = []

    def answer(request):
        request.setResponseCode(500)
        request.setHeader("content-length", "1000000")
        drips.append(LoopingCall(request.write, b"x"))
        drips[-1].start(0.01)
        request.notifyFinish().addErrback(lambda failure: drips[-1].stop())
        return NOT_DONE_YET

    bucket.answer = answer
    claims = claimsIn(bucket, timeout=0.2)
    with pytest.raises(Unavailable) as caught:
        await (operation(claims) if operation is keep else operation(claims, f"{bucket.url}/1.1.eml"))
    assert "within 0.2 seconds" in str(caught.value) or f"answers {verb} with 500" in str(caught.value)
    while drips[-1].running:
        await deferLater(reactor, 0)


@ensureDeferred
async def test_an_object_that_is_cut_is_not_taken_for_a_whole_one(bucket):
    def answer(request):
        request.setHeader("content-length", "100")
        request.write(b"x" * 50)
        request.transport.loseConnection()
        return NOT_DONE_YET

    bucket.answer = answer
    with pytest.raises(Unavailable):
        await contentOf(claimsIn(bucket), f"{bucket.url}/1.1.eml")


@ensureDeferred
async def test_a_missing_object_is_a_failure(bucket):
    with pytest.raises(Unavailable) as caught:
        await contentOf(claimsIn(bucket), f"{bucket.url}/1.1.eml")
    assert "404 NoSuchKey" in str(caught.value)


@ensureDeferred
async def test_a_service_that_is_down_is_a_failure():
    with pytest.raises(Unavailable) as caught:
        await keep(claimsIn(SimpleNamespace(url="http://127.0.0.1:1/claims")))
    assert "refused" in str(caught.value)


@ensureDeferred
async def test_no_other_server_is_asked(bucket):
    for reference in ("http://127.0.0.1:1/claims/1.1.eml", f"{bucket.url}elsewhere/1.1.eml", "file:///1.1.eml"):
        with pytest.raises(ValueError):
            await claimsIn(bucket).drop(reference)
        with pytest.raises(ValueError):
            await contentOf(claimsIn(bucket), reference)


def test_the_key_may_be_in_a_file(tmp_path):
    options = {"url": "https://s3.example/claims", "accessKey": "A"}
    (tmp_path / "key").write_text(f"{TOKEN}\n")
    assert S3Claims(**options, secretKey=str(tmp_path / "key"))._credentials.secretKey == TOKEN
    (tmp_path / "empty").write_text("")
    for name in ("empty", "missing"):
        with pytest.raises(OptionError) as caught:
            S3Claims(**options, secretKey=str(tmp_path / name))
        assert "secretKey" in str(caught.value)


@pytest.mark.parametrize("url", ["s3://claims", "https://s3.example", "https://s3.example/claims?x=1", "", None])
def test_a_wrong_url_is_named(url):
    with pytest.raises(OptionError) as caught:
        S3Claims(url=url, accessKey="A", secretKey="B")
    assert "option url" in str(caught.value)


@ensureDeferred
async def test_requests_are_signed_for_the_time_of_the_clock(bucket):
    claims = claimsIn(bucket)
    claims.clock = Clock()
    times = []

    def answer(request):
        times.append(request.getHeader("x-amz-date"))
        return b""

    bucket.answer = answer
    await keep(claims)
    assert times == ["19700101T000000Z"]
