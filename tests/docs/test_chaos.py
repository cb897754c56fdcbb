"""The page of the kill matrix: it quotes a run of all cells, in which nothing was lost."""

from __future__ import annotations

import re

from chaos.ledger import Told
from chaos.matrix import DELIVERIES
from chaos.run import HEADINGS, faultsOf
from tests.pages import DOCS

ROWS = [re.split(r" {2,}", line) for line in (DOCS / "chaos/table.txt").read_text().splitlines() if line[:1] != "="]


def test_the_quoted_table_has_all_cells() -> None:
    assert ROWS[0] == HEADINGS
    cells = [(row[0], row[1]) for row in ROWS[1:-1]]
    assert cells == [(delivery.name, fault) for delivery in DELIVERIES for fault in faultsOf(delivery, [])]


def test_in_the_quoted_run_nothing_is_lost_half_or_silent() -> None:
    for row in ROWS[1:-1]:
        counts = dict(zip(HEADINGS[2:], map(int, row[2:]), strict=True))
        assert counts["250"] > 0, row
        assert counts["sent"] == sum(counts[told.value] for told in Told)
        assert counts["found"] >= counts["250"]
        assert (counts["lost"], counts["half"], counts["silent"]) == (0, 0, 0)


def test_the_page_explains_what_can_be_broken() -> None:
    page = (DOCS / "chaos.rst").read_text()
    for name in {fault for delivery in DELIVERIES for fault in faultsOf(delivery, [])}:
        assert f"\n{name}  " in page
