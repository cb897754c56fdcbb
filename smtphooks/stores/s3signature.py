"""
The signature of a request to Amazon S3, "AWS Signature Version 4".

In: a request, and a key.  Out: its header fields, the signature among them.
https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html.  Tests compare it with botocore's.
This module knows no connection.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime
from urllib.parse import quote, urlsplit

import attrs

# The digest of a body without octets.
EMPTY = hashlib.sha256().hexdigest()

_ALGORITHM = "AWS4-HMAC-SHA256"


@attrs.frozen
class Credentials:
    """
    A key, and what it signs for.

    @ivar accessKey: the id of the key.
    """

    accessKey: str
    secretKey: str = attrs.field(repr=False)
    region: str


def escapePath(text: str) -> str:
    """A part of a path, as S3 wants its octets to be escaped: all but unreserved characters (RFC 3986 section 2.3)."""
    return quote(text, safe="-._~")


def signedHeaders(credentials: Credentials, method: str, url: str, digest: str, now: datetime) -> dict[str, str]:
    """
    The header fields of a request.

    @param url: without a query; its path is escaped already.
    @param digest: SHA-256 of the body, in hexadecimal digits.
    @param now: in UTC; the service takes a difference of 15 minutes.
    """
    parts = urlsplit(url)
    time = now.strftime("%Y%m%dT%H%M%SZ")
    signed = {"host": _hostOf(parts.scheme, parts.netloc), "x-amz-content-sha256": digest, "x-amz-date": time}
    names = ";".join(signed)  # in alphabetical order
    fields = "".join(f"{name}:{value}\n" for name, value in signed.items())
    request = "\n".join([method, parts.path or "/", "", fields, names, digest])
    scope = f"{time[:8]}/{credentials.region}/s3/aws4_request"
    text = "\n".join([_ALGORITHM, time, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{credentials.secretKey}".encode()
    for step in scope.split("/"):
        key = hmac.digest(key, step.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    authorization = (
        f"{_ALGORITHM} Credential={credentials.accessKey}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return {"x-amz-content-sha256": digest, "x-amz-date": time, "Authorization": authorization}


def _hostOf(scheme: str, netloc: str) -> str:
    """The field Host as clients send it: without the port that goes without saying."""
    default = {"http": ":80", "https": ":443"}[scheme]
    return netloc.removesuffix(default)
