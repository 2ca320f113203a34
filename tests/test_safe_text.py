"""Text from submissions cannot control the terminal; durations, counts and ranges are put into words."""

import msgspec

from raftlab.safe_text import count, duration, one_line, printable, printable_json, spans


def test_control_characters_are_escaped() -> None:
    assert printable("a\x1b[31mb\x07\r\u202ec\n\td\udc80") == "a\\x1b[31mb\\x07\\r\\u202ec\n\td\\udc80"
    assert printable("größer – 語") == "größer – 語"


def test_strings_in_json_are_escaped() -> None:
    value = {"text": 'a\u202eb\x9b31m "größer"\n\\', "size": 1}
    shown = {"text": 'a\\u202eb\\x9b31m "größer"\n\\', "size": 1}
    assert msgspec.json.decode(printable_json(msgspec.json.encode(value))) == shown
    plain = msgspec.json.encode({"text": "größer\n"})
    assert printable_json(plain) == plain


def test_one_line_is_the_first_line_cut_to_a_length() -> None:
    assert one_line("  first\x1b line\nsecond") == "first\\x1b line"
    assert one_line("") == ""
    assert one_line("abcdef", 4) == "abc…"


def test_numbers_in_words() -> None:
    assert [duration(s) for s in (0, 38.2, 125, 3840)] == ["0 s", "38 s", "2 min 05 s", "1 h 04 min"]
    assert (count(1, "run"), count(2, "run")) == ("1 run", "2 runs")
    assert spans([9, 3, 7, 8, 12, 13]) == "3, 7–9, 12, 13"
