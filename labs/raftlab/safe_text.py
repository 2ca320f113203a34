"""Text for terminals and reports: untrusted text made safe to print, and numbers, counts and durations in words."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` with an escape sequence in place of every unprintable character (ESC, bidi marks, lone surrogates). Newlines
    and tabs are kept. Use this function for any text that a student could have written."""
    return "".join(c if c.isprintable() or c in "\n\t" else _escaped(c) for c in text)


def printable_json(json: bytes) -> bytes:
    """JSON in which the strings show an escape sequence in place of every unprintable character, as :func:`printable` does.
    A reader of the JSON gets the sequence, not the character."""
    text = "" if json.isascii() else json.decode()
    if text.isprintable():
        return json
    return "".join(c if c.isprintable() else "\\" + _escaped(c) for c in text).encode()


def one_line(text: str, limit: int = 240) -> str:
    """The first line of ``text``, made printable and cut to at most ``limit`` characters."""
    stripped = text.strip()
    line = stripped.splitlines()[0] if stripped else ""
    cleaned = printable(line).replace("\t", " ")
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1] + "…"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def duration(seconds: float) -> str:
    """Seconds in words: ``38 s``, ``2 min 05 s``, ``1 h 04 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(number: int, thing: str) -> str:
    """A number with its noun: ``1 run``, ``2 runs``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def spans(numbers: list[int]) -> str:
    """The numbers in order, with three or more consecutive ones as a range: ``3, 7–9, 12``."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(_span(part) for part in parts)


def _span(part: list[int]) -> str:
    if len(part) == 1:
        return str(part[0])
    return f"{part[0]}, {part[1]}" if len(part) == 2 else f"{part[0]}–{part[-1]}"


def number(value: float) -> str:
    """A number with at most two decimals and no trailing zeros: ``15``, ``7.5``, ``3.33``."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
