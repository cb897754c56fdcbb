"""
The directive C{smtphooks-option}: an option as it is declared, above the prose that says what it is for.

Default and wanted values are printed from the declaration in C{smtphooks.options}, so that no page can say otherwise,
and each option has the label C{option-<name>}.  The options of a layer or store stand in a table below a title that is
its name: each row has the label C{option-<layer>-<name>}.
This module knows no option by name.
"""

from __future__ import annotations

from typing import Any

import attrs
from docutils import nodes
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

from smtphooks.options import Options

FIELDS = attrs.fields_dict(Options)


def defaultOf(name: str) -> str:
    """The default as Python writes it, a tuple as the list that it is given as; words where it depends on the host."""
    field = FIELDS[name]
    if isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]
        made = field.default.factory
        return "{}" if made is dict else "this host's name"
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    return f'"{default}"' if isinstance(default, str) else repr(default).replace("'", '"')


def wantedOf(name: str) -> str:
    """The words for what fits, as the error for a wrong value has them."""
    return str(FIELDS[name].metadata["wants"].replace("{true!r}", "True").replace("{false!r}", "False"))


class OptionDirective(SphinxDirective):
    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        (name,) = self.arguments
        if name not in FIELDS:
            raise self.error(f"there is no option {name}")
        # Sphinx looks for labels in lower case.
        label = f"option-{name}"
        term = nodes.term("", "", nodes.literal("", name), ids=[label], names=[label.lower()])
        self.state.document.note_explicit_target(term)
        default = defaultOf(name)
        shown = nodes.literal("", default) if default != "this host's name" else nodes.Text(default)
        facts = nodes.paragraph("", "", nodes.Text("Default: "), shown, nodes.Text(f".  Wants {wantedOf(name)}."))
        facts["classes"].append("option-facts")
        definition = nodes.definition("", facts, *self.parse_content_to_nodes())
        return [nodes.definition_list("", nodes.definition_list_item("", term, definition))]


class OptionRows(SphinxTransform):
    """A label for each row of a table of options."""

    default_priority = 500  # before Sphinx collects the labels of a page, at 850

    def apply(self, **kwargs: Any) -> None:
        for table in self.document.findall(nodes.table):
            head, body = table.next_node(nodes.thead), table.next_node(nodes.tbody)
            if head is None or body is None or head.next_node(nodes.entry).astext() != "Option":
                continue
            section = table.parent
            if section[0].astext() == "Options":  # on a page of one layer alone
                section = section.parent
            for row in body.children:
                term = row.next_node(nodes.literal).parent
                label = f"option-{section[0].astext()}-{row.next_node(nodes.literal).astext()}"
                term["ids"].append(label)
                term["names"].append(label.lower())
                self.document.note_explicit_target(term)


def setup(app: Any) -> dict[str, bool]:
    app.add_transform(OptionRows)
    app.add_directive("smtphooks-option", OptionDirective)
    return {"parallel_read_safe": True}
