"""What type checkers must reject: every line that ends with "error", and no other.  It is checked, and never run."""

from __future__ import annotations

from collections.abc import AsyncIterator

from typing_extensions import Unpack

from smtphooks import Address, Auth, Hooks, Layer, MessageStream, Session, SMTPServerFactory
from smtphooks.layers import RateLimit
from smtphooks.optiontypes import FactoryOptions
from smtphooks.stores import Maildir


class Derived(Hooks):
    def onConnect(self, session: str) -> None: ...  # error
    def onHelo(self, hostname: bytes, session: Session) -> None: ...  # error
    def onAuth(self, auth: Auth) -> None: ...  # error

    def onMailFrom(self, address: Address, session: Session) -> bool:  # error
        return True

    def onRcptTo(self, address: str, session: Session) -> int:  # error
        return 250

    async def onData(self, stream: MessageStream, session: Session) -> bytes:  # error
        return await stream.read()

    def onError(self, failure: Exception, session: Session | None) -> None: ...  # error

    async def filterData(self, stream: MessageStream, session: Session) -> AsyncIterator[str]:  # error
        yield ""


class WrongArgument:
    def onRcptTo(self, address: str, session: Session) -> None: ...


class WrongResult:
    async def onRcptTo(self, address: Address, session: Session) -> int:
        return 250


class AsTheIssueSays:
    def onRcptTo(self, address: str) -> int:
        return 250


class Misspelt:
    def onRcpt(self, address: Address, session: Session) -> None: ...


class Fine:
    def onRcptTo(self, address: Address, session: Session) -> None: ...


def wrongResult(address: Address, session: Session) -> int:
    return 250


async def wrongArgument(address: str, session: Session) -> None: ...


SMTPServerFactory(WrongArgument())  # error
SMTPServerFactory(hooks=WrongResult())  # error
SMTPServerFactory(hooks=AsTheIssueSays())  # error
SMTPServerFactory(hooks=Misspelt())  # error
SMTPServerFactory(hooks=Fine)  # error
SMTPServerFactory(hooks="myapp.mail:Hooks")  # error
SMTPServerFactory(hooks=[Fine(), WrongResult()])  # error
SMTPServerFactory(hooks=[Layer(WrongResult()), Fine()])  # error
SMTPServerFactory(onRcptTo=wrongResult)  # error
SMTPServerFactory(onMailFrom=wrongArgument)  # error
SMTPServerFactory(onVrfy=lambda text: None)  # error
SMTPServerFactory(onRcpt=print)  # error
SMTPServerFactory(inspectData=print)  # error

SMTPServerFactory(sise=1000)  # error
SMTPServerFactory(size="1000")  # error
SMTPServerFactory(size=0.5)  # error
SMTPServerFactory(authOptional=1)  # error
SMTPServerFactory(socketTimeout="60")  # error
SMTPServerFactory(socketTimeout=None)  # error
SMTPServerFactory(disabledCommands="VRFY")  # error
SMTPServerFactory(authMethods=["PLAIN", 1])  # error
SMTPServerFactory(useProxy="192.0.2.1")  # error
SMTPServerFactory(bareNewline="ignore")  # error
SMTPServerFactory(minVersion="1.2")  # error
SMTPServerFactory(sniOptions={"mx.example.org": {"keyy": "key.pem"}})  # error
SMTPServerFactory(sniOptions={"mx.example.org": {"size": 1000}})  # error

factory = SMTPServerFactory(Fine())
factory.onRcptTo = wrongResult  # error
factory.onMailFrom = wrongArgument  # error
factory.updateSecureContext(size=1000)  # error
factory.updateSecureContext(key=1)  # error
Layer(Fine(), onFault=1)  # error
Layer(Fine(), unlesss=["authenticated"])  # error
RateLimit(patth="counts")  # error
Maildir(1)  # error


def handOn(**options: Unpack[FactoryOptions]) -> None: ...


handOn(sise=1000)  # error
