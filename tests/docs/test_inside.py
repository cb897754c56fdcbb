"""docs/inside.rst: what it draws is what the code does."""

from __future__ import annotations

import re
import sys

import pytest

from smtphooks.dialogue.commands import COMMANDS
from smtphooks.dialogue.steps import State
from smtphooks.hooktable import ARGUMENTS
from tests.pages import DOCS
from tests.support import connect
from tests.test_layers import FOLDERS

sys.path.append(str(DOCS / "_ext"))
from flowdocs import flow, folderRows, folders, hookRows
from statedocs import LINES, WAYS, survey, svg, transitions

FOUND = transitions()
DRAWN = {(one.before, one.event): one.after for one in FOUND}


def test_every_state_and_every_command_is_drawn() -> None:
    assert {one.before for one in FOUND} | {one.after for one in FOUND} == {*State}
    assert {one.event for one in FOUND} == {"connected", *COMMANDS, "BDAT LAST", "end of message"}


def test_what_the_table_of_commands_refuses_is_not_drawn() -> None:
    assert [key for verb, row in COMMANDS.items() for state in row.refusals if (key := (state, verb)) in DRAWN] == []


@pytest.mark.parametrize("state", WAYS)
@pytest.mark.parametrize("verb", [verb for verb in COMMANDS if verb not in ("LHLO", "STARTTLS", "XCLIENT")])
def test_a_server_goes_where_the_drawing_says(state: State, verb: str) -> None:
    """A whole server, with a transport in memory; STARTTLS and XCLIENT begin a session anew, as their tests hold."""
    client = connect(allowInsecureAuth=True, useXForward=True, onAuth=lambda auth, session: auth.username)
    for step in WAYS[state]:
        client.say(LINES.get(step, step))
        if step == "BDAT":
            client.feed(b"0123456789")
    assert client.pump.dialogue.state is state
    client.replies()
    said = client.say(LINES.get(verb, verb))
    if verb == "BDAT":
        client.feed(b"0123456789")
        said += client.replies()
    isAccepted = bool(said) and said[-1][0] in "23"
    assert isAccepted is ((state, verb) in DRAWN)
    assert client.pump.dialogue.state is DRAWN.get((state, verb), state)
    if verb == "DATA" and isAccepted:
        client.say("text", ".")
        assert client.pump.dialogue.state is DRAWN[State.MESSAGE, "end of message"]


def test_the_picture_has_each_state_and_each_way_between_two() -> None:
    picture = svg(FOUND)
    for state in {*State} - {State.CLOSED}:
        assert f">{state.name}</text>" in picture
    ways = {(one.before, one.after) for one in FOUND if one.before is not one.after and one.after is not State.CLOSED}
    assert picture.count("marker-end") == len(ways)


def test_every_hook_is_in_the_table_of_hooks() -> None:
    assert [row[0] for row in hookRows()] == [f":doc:`/hooks/{name}`" for name in ARGUMENTS]


def test_every_folder_stands_behind_those_that_it_imports() -> None:
    seen: list[str] = []
    for name, purpose, imports in folderRows():
        assert purpose
        assert {*filter(None, imports.split(", "))} <= {*seen}
        seen.append(re.sub("[`/]", "", name))
    assert sorted(seen) == FOLDERS


def test_the_hooks_that_are_drawn_for_a_command_are_those_of_the_table_of_commands() -> None:
    asked = survey().asked
    for verb, command in COMMANDS.items():
        assert not command.hook or command.hook in asked[verb]
    assert asked["AUTH"] == ["onAuth"]
    assert "onSecure" in asked["STARTTLS"]


def test_the_picture_of_the_hooks_has_each_command_that_asks_one() -> None:
    picture = flow()
    for event, hooks in survey().asked.items():
        for hook in hooks:
            assert f">{hook}</text>" in picture
            assert event == "BDAT LAST" or event in picture.replace("a client connects", "connected")


def test_the_picture_of_the_folders_has_each_of_them() -> None:
    picture = folders()
    for folder in FOLDERS:
        assert f">{folder}</text>" in picture


def test_no_markup_of_the_docstrings_is_left_in_the_table_of_folders() -> None:
    assert [purpose for _, purpose, _ in folderRows() if "{" in purpose] == []
