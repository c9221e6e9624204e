"""The escape: a text from outside made harmless, whatever it is written into. Pure."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return the text as one line: every character that does not show, a line end too, as its escape."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def linkless(text: str) -> str:
    """Return the text as one line in which no viewer finds a link (SARIF 2.1.0, 3.11.6: `[text](target)`)."""
    return printable(text).replace("](", "] (")


def markup(text: str) -> str:
    """Return the text for XML, attribute or content: printable, and so within what XML 1.0 (section 2.2) allows."""
    for one, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(one, entity)
    return printable(text)


def past_tokens(path: str) -> str:
    """Return a path that TorchServe's management listener reads as what it is, though a model is called `tokenizer`.

    It takes any request with `/token` in its line for a key rotation, and decodes escapes only after that
    (TokenAuthorizationHandler.java). Queries need no such care: their slashes are always escaped.
    """
    return path.replace("/token", "/%74oken")
