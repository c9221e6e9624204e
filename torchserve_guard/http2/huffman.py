"""The Huffman code of header values (RFC 7541 section 5.2 and appendix B), read four bits at a time.

The code is canonical: codes of one length follow each other in the order of their symbols, so the lengths
are all of it.
"""

from __future__ import annotations

from functools import cache

# How many bits stand for each byte, and, last, for the end of the text: two hexadecimal digits each.
_LENGTHS = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b08060606"
    "0505050606060606060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e06"
    "0f05060506050606060507070606060506070605050607070707070f0b0e0d1c14161414161616171617171717171817"
    "181816171817171717151617161717181615141616171715171616181516171715151615171617171416161617161617"
    "1a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b14181415161515171616191918181a17"
    "1a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)
_END = 256
_LONGEST_PADDING = 7

Step = tuple[int, bytes]
"""Where four bits lead to, a state, and what they complete."""


def decode(coded: bytes) -> bytes:
    """Return the text. Raises `ValueError` for what no encoder writes."""
    steps, paddings = _machine()
    state = 0
    text: list[bytes] = []
    add = text.append
    for byte in coded:
        state, completed = steps[state | byte >> 4]
        if completed:
            add(completed)
        state, completed = steps[state | byte & 15]
        if completed:
            add(completed)
    # What fills the last byte is the beginning of the code of the end, and shorter than a byte.
    if state not in paddings:
        raise ValueError("a text is padded in another way than it may be, or its end stands within it")
    return b"".join(text)


@cache
def _machine() -> tuple[list[Step], frozenset[int]]:
    """Return the steps from each state by its next four bits, and the states where a text may end.

    A state is 16 times an inner node of the tree of codes, or the last, which nothing leads out of: no text has it.
    """
    children = _tree()
    dead = len(children) << 4
    steps = [_step(children, node, nibble, dead) for node in range(len(children)) for nibble in range(16)]
    steps += [(dead, b"")] * 16
    paddings, node = [0], 0
    for _ in range(_LONGEST_PADDING):
        node = children[node][1]
        paddings.append(node << 4)
    return steps, frozenset(paddings)


def _tree() -> list[list[int]]:
    """Return the inner nodes: what a 0 and a 1 lead to, an inner node or, below zero, `-1 - symbol`."""
    children: list[list[int]] = [[0, 0]]
    code = length = 0
    for symbol in sorted(range(_END + 1), key=lambda symbol: (_LENGTHS[symbol], symbol)):
        code <<= _LENGTHS[symbol] - length
        length = _LENGTHS[symbol]
        node = 0
        for at in range(length - 1, 0, -1):
            bit = code >> at & 1
            if not children[node][bit]:
                children.append([0, 0])
                children[node][bit] = len(children) - 1
            node = children[node][bit]
        children[node][code & 1] = -1 - symbol
        code += 1
    return children


def _step(children: list[list[int]], node: int, nibble: int, dead: int) -> Step:
    completed = b""
    for at in (3, 2, 1, 0):
        node = children[node][nibble >> at & 1]
        if node < 0:
            symbol = -1 - node
            if symbol == _END:
                return dead, b""
            completed += bytes((symbol,))
            node = 0
    return node << 4, completed
