"""
The transcript of a connection: what is said and heard, for whoever wants to see it, without secrets.

In: lines, and which texts are secret.  Out: the lines with C{"…"} in the place of those, also where a server repeats
them, as some do in an error.
This module knows no connection, and not why a text is secret.
"""

from __future__ import annotations

from collections.abc import Callable

Transcript = Callable[[str, str], object]
"""
Is told C{">"} and what is said, C{"<"} and each line of a reply; C{"!"} and why a connection is given up for another.
"""

_FEWEST = 4  # a shorter text is found in too many others to be hidden by leaving it out


class Redaction:
    """
    What is told to a transcript.

    @ivar transcript: who is told; None for nobody.
    """

    def __init__(self, transcript: Transcript | None, *secrets: str | None) -> None:
        self.transcript: Transcript | None = transcript
        self._secrets: set[str] = set()
        self.add(*secrets)

    def add(self, *secrets: str | None) -> None:
        """From now on these are not told."""
        self._secrets.update(text for text in secrets if text is not None and len(text) >= _FEWEST)

    def withoutSecrets(self, text: str) -> str:
        """A text with C{"…"} in the place of each secret."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "…")
        return text

    def said(self, line: str) -> None:
        """Tell what is said."""
        if self.transcript is not None:
            self.transcript(">", line)

    def heard(self, lines: str) -> None:
        """Tell what is heard."""
        if self.transcript is not None:
            for line in lines.split("\n"):
                self.transcript("<", self.withoutSecrets(line))
