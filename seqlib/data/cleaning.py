# SPDX-License-Identifier: Apache-2.0
"""From the markup of documentation packages to plain text."""

import html
import re
from collections.abc import Iterator
from html.parser import HTMLParser

MIN_CHARS = 200  # shorter documents are navigation and stubs
DICTIONARY_CHARS = 16_384

_RULE = re.compile(r"^\s*([=\-~^\"'`#*+.:_])\1{2,}\s*$|^\s*\+[-=+]+\+\s*$|^\s*=+( +=+)+\s*$")
_DIRECTIVE = re.compile(r"^\s*\.\. (?!note\b|warning\b)\S.*$")
_ROLE = re.compile(r":[a-zA-Z][\w:+.-]*:`([^`<]*?)\s*(?:<[^`>]*>)?`")
_ROLE_BARE = re.compile(r":[a-zA-Z][\w:+.-]*:`<?([^`>]*)>?`")
_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]*>`__?")

_POD_CODE = re.compile(r"(\b[A-Z]|E)(?:<<+\s+(.*?)\s+>>+|<([^<>]*)>)", re.DOTALL)
# a sign that could open or close an outer code waits as a private character until the end
_POD_ESCAPES = {"lt": "\ue000", "gt": "\ue001", "verbar": "|", "sol": "/"}
_POD_COMMAND = re.compile(r"^=[a-zA-Z]\w*[ \t]*", re.MULTILINE)

_SOURCE_TAG = re.compile(
    r"\s*\[(?:(?:1913 Webster|Webster 1913 Suppl\.|WordNet(?: sense)?|[A-Z]{2,4})"
    r"[0-9. ]*(?:\+\s*)?)+\]"
)


def rst(text: str) -> str:
    """reStructuredText without rules, directives, roles, link targets and emphasis marks."""
    lines = ["" if _DIRECTIVE.match(s) else s for s in text.split("\n") if not _RULE.match(s)]
    text = "\n".join(lines)
    text = _ROLE_BARE.sub(r"\1", _ROLE.sub(lambda m: m[1] or m[0], text))
    return _LINK.sub(r"\1", text).replace("``", "").replace("**", "")


def pod(text: str) -> str:
    """The documentation in a Perl file, command words and formatting codes removed."""
    blocks = re.findall(r"^(=(?!cut)[a-zA-Z].*?)(?=^=cut|\Z)", text, re.MULTILINE | re.DOTALL)
    text = _POD_COMMAND.sub("", "\n".join(blocks))
    changed = 1
    while changed:  # codes nest: the innermost go first
        text, changed = _POD_CODE.subn(_pod_text, text)
    return text.replace("\ue000", "<").replace("\ue001", ">")


def _pod_text(match: re.Match[str]) -> str:
    code, inner = match[1], match[2] if match[2] is not None else match[3]
    if code == "E":
        return _pod_escape(inner)
    return inner.split("|", 1)[0] if code == "L" else "" if code in "XZ" else inner


def _pod_escape(name: str) -> str:
    """The character that `E<name>` stands for."""
    if name in _POD_ESCAPES:
        return _POD_ESCAPES[name]
    if name.isdecimal():
        return chr(int(name))
    character = html.unescape(f"&{name};")
    return name if character.startswith("&") else character


class _Text(HTMLParser):
    HIDDEN = frozenset({"script", "style", "nav", "head"})
    BLOCK = re.compile(
        "address|article|blockquote|body|br|caption|d[dlt]|div|fig.*|footer|h[1-6r]|header|html|li"
        "|main|[ou]l|p|pre|section|table|tbody|t[dhr]|tfoot|thead"
    )

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in self.HIDDEN
        self._break(tag)

    def handle_endtag(self, tag):
        self.hidden = max(0, self.hidden - (tag in self.HIDDEN))
        self._break(tag)

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data)

    def _break(self, tag: str) -> None:
        if self.BLOCK.fullmatch(tag) and not self.hidden:
            self.parts.append("\n")


def html_text(text: str) -> str:
    """The visible text of a page; every block element starts a line."""
    parser = _Text()
    parser.feed(text)
    parser.close()
    return "".join(parser.parts)


def gcide(text: str) -> Iterator[str]:
    """Dictionary entries without source tags and braces, grouped into long documents."""
    group, size = [], 0
    for entry in re.split(r"\n(?=\S)", text):
        entry = _SOURCE_TAG.sub("", entry).replace("{", "").replace("}", "")
        entry = re.sub(r"(?<=\S)\n[ \t]+(?=\S)", " ", entry)
        group.append(entry)
        size += len(entry) + 1
        if size >= DICTIONARY_CHARS:
            yield "\n".join(group)
            group, size = [], 0
    if group:
        yield "\n".join(group)


def normalise(text: str) -> str:
    """Tabs to 8 columns, no trailing blanks, at most one empty line in a row."""
    text = text.replace("\r\n", "\n")
    lines = "\n".join(line.expandtabs(8).rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", lines).strip("\n") + "\n"
