"""A YAML document, read so that no two readers can see different things in it.

Pure. TorchServe's frontend reads with SnakeYAML, its workers with PyYAML's safe loader, people with their eyes:
tags, merge keys and repeated keys, anything but UTF-8 and all that is out of proportion are refused.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from torchserve_guard.archives.document import Malformed

LARGEST = 256 << 10
"""Bytes of the largest document that is read."""
DEEPEST = 32
MOST_ALIASES = 50
"""As many as SnakeYAML follows to collections (LoaderOptions.maxAliasesForCollections)."""
MOST_VALUES = 10_000
"""Values of the document with every alias written out: `billion laughs` has more."""
LONGEST_NUMBER = 64

_MERGE = "tag:yaml.org,2002:merge"
_ODD = re.compile("[\x85\u2028\u2029\ufeff]|\r(?!\n)")
_NUMBERS = frozenset({"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"})


@dataclass(frozen=True, slots=True)
class Document:
    """A document that is a mapping: its value, and the line of each of its keys, from 1."""

    value: Mapping[str, Any]
    lines: Mapping[str, int]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, for a document whose nodes were looked at before."""

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise Malformed(f"has a key that is no word{_line(key_node)}")
            if key in seen:
                raise Malformed(f"has the key `{key}` twice{_line(key_node)}")
            seen.add(key)
        return super().construct_mapping(node, deep)


def parse(data: bytes) -> Document:
    """Return the document, or raise `Malformed` with the reason."""
    if len(data) > LARGEST:
        raise Malformed(f"is larger than the limit of {LARGEST} bytes")
    text = _text(data)
    try:
        return _parsed(text)
    except Malformed:
        raise
    except yaml.MarkedYAMLError as error:
        raise Malformed(f"is not YAML{_line(error.problem_mark)}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise Malformed(f"is not YAML: {' '.join(str(error).split())}") from error
    except (ValueError, TypeError, OverflowError, AttributeError, LookupError) as error:
        # What PyYAML's constructors let through: a date such as `2001-99-99`, a number such as `0b_`.
        raise Malformed(f"has a value that YAML cannot read: {error}") from error


def _text(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(f"is not UTF-8 (byte {error.start})") from error
    odd = _ODD.search(text)
    if odd is not None:
        raise Malformed(f"has the character {odd[0]!a}, which ends a line or does not show, as the reader sees fit")
    return text


def _parsed(text: str) -> Document:
    _verify_events(text)
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise Malformed("is empty")
        if not isinstance(node, MappingNode):
            raise Malformed("is no mapping of keys to values")
        _size(node, {}, set())
        value = loader.construct_document(node)
    finally:
        loader.dispose()
    wrong = [key for key in value if not isinstance(key, str)]
    if wrong:
        raise Malformed(f"has the key `{wrong[0]}`, which is no word but a {type(wrong[0]).__name__}: quote it")
    return Document(value, {key.value: key.start_mark.line + 1 for key, _ in node.value})


def _verify_events(text: str) -> None:
    """Return if the document is flat and plain enough to be built: nothing is built to find out."""
    depth = aliases = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            aliases += 1
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise Malformed(f"has the tag `{tag}`{_line(event)}: write values without tags")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise Malformed(f"is nested more than {DEEPEST} deep{_line(event)}")
        if count > 2 * MOST_VALUES:
            raise Malformed(f"is more than {MOST_VALUES} values{_line(event)}")
        if aliases > MOST_ALIASES:
            raise Malformed(f"has more than {MOST_ALIASES} aliases{_line(event)}")


def _size(node: Node, known: dict[int, int], above: set[int]) -> int:
    """Return how many values a node is with its aliases written out; each node is counted once."""
    if id(node) in above:
        raise Malformed(f"contains itself{_line(node)}")
    if id(node) in known:
        return known[id(node)]
    if isinstance(node, ScalarNode):
        _verify_scalar(node)
    above.add(id(node))
    total = 1 + sum(_size(child, known, above) for child in _children(node))
    above.discard(id(node))
    if total > MOST_VALUES:
        raise Malformed(f"is more than {MOST_VALUES} values with its aliases written out{_line(node)}")
    known[id(node)] = total
    return total


def _verify_scalar(node: ScalarNode) -> None:
    if node.tag == _MERGE:
        raise Malformed(f"has a merge key `<<`{_line(node)}: write the keys out")
    if node.tag in _NUMBERS and len(node.value) > LONGEST_NUMBER:
        raise Malformed(f"has a number of {len(node.value)} characters{_line(node)}")


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [one for pair in node.value for one in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []


def _line(where: Any) -> str:
    """Return the place of a node, an event or a mark, in words."""
    mark = getattr(where, "start_mark", where)
    return f" (line {mark.line + 1})" if mark is not None else ""
