"""Tests of the viewer's page in a browser: what it shows, how readers move in it, and that it is fast."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from raftlab.harness import trace
from tests.viewer.pages import (
    NEEDS_BROWSER,
    Open,
    RunTrace,
    append,
    events_of,
    exchange,
    know,
    message_run,
    write,
)

pytestmark = [NEEDS_BROWSER, pytest.mark.slow]

BAD = "</script><img src=x onerror='window.broken = 1'>"


# --- the text of events ---


def test_events_are_worded_as_in_raftlab_replay(busy: RunTrace, broken: RunTrace, open_page: Open) -> None:
    for kept in (busy, broken):
        page = open_page(kept.path)
        assert page.evaluate("raftlab.data.events.map(raftlab.sentence)") == kept.lines


def test_html_in_a_trace_is_shown_as_text(open_page: Open, tmp_path: Path) -> None:
    message = {"term": 1, BAD: BAD, "entries": [{"term": 1, "command": BAD}], "prev_log_index": 0, "prev_log_term": 0}
    events = message_run(
        ("line", 0, BAD, BAD),
        *exchange(1, 0, 1, "append_entries", message, {"term": 1, "success": True, BAD: BAD}),
        ("note", BAD),
        ("net", BAD),
        ("call", 0, 1, "start", [BAD]),
        ("result", 0, 1, "start", [1, 1, True]),
        ("apply", 0, {"index": 1, "term": 1, "command": BAD, "kind": BAD}),
        ("advice", 0, BAD, BAD, BAD),
        ("fault", 0, BAD, BAD, BAD),
    )
    failure = {"kind": BAD, "text": BAD, "where": BAD, "hint": BAD, "events": [BAD], "detail": BAD}
    page = open_page(
        write(tmp_path / "bad.jsonl", {"servers": 3, "test": BAD, "seed": BAD, "failure": failure}, events)
    )
    page.click("#failure-toggle")
    for index in range(-1, len(events)):
        page.evaluate(f"raftlab.go({index})")
        assert page.locator("img").count() == 0
    assert page.evaluate("window.broken") is None
    assert page.locator("#failure-text").text_content() == BAD
    page.evaluate("raftlab.go(3)")
    assert BAD in page.locator("#event").text_content()


def test_odd_messages_do_not_stop_the_page(busy: RunTrace, open_page: Open, tmp_path: Path) -> None:
    dice = random.Random(7)
    odd: list[Any] = [None, "x", -1, 1.5, [], {}, [None], {"term": "x"}, True, 10**9]

    def spoil(event: dict[str, Any]) -> dict[str, Any]:
        message = event.get("message")
        if isinstance(message, dict):
            changes = {name: dice.choice(odd) for name in message if dice.random() < 0.3}
            return {**event, "message": dice.choice(odd) if dice.random() < 0.1 else {**message, **changes}}
        return {**event, "message": dice.choice(odd)} if "message" in event and dice.random() < 0.5 else event

    events = [spoil(event) for event in events_of(busy.path)]
    page = open_page(write(tmp_path / "odd.jsonl", {"servers": 5}, events))
    page.evaluate("() => { for (let at = 0; at < raftlab.count; at += 23) { raftlab.go(at); raftlab.paint(); } }")


# --- a failing run ---


def test_a_failing_run_opens_at_the_failure(broken: RunTrace, open_page: Open) -> None:
    page = open_page(broken.path)
    last = len(broken.lines) - 1
    assert know(page, "[raftlab.cursor, raftlab.fails]") == [last, last]
    assert page.locator("#failure-text").text_content() == broken.failure
    page.keyboard.press("Home")
    assert know(page, "raftlab.cursor") == 0
    page.keyboard.press("f")
    assert know(page, "raftlab.cursor") == last
    assert know(page, "raftlab.picture.at(raftlab.fails) < raftlab.picture.height")


def test_the_explanation_of_a_failure_can_be_unfolded(broken: RunTrace, open_page: Open, tmp_path: Path) -> None:
    rule = {"name": "a made-up rule", "says": "votes once", "section": "§5.2", "handout": "handouts/lab-2a.md"}
    led = [f"   {event['t']:5.3f} {text}" for event, text in zip(events_of(broken.path), broken.lines, strict=True)][
        -3:
    ]
    led[0] += " (the last of 2, from 0.000 on)"
    failure = {"kind": "invariant", "text": "two votes", "rule": rule, "events": led, "detail": "more"}
    path = write(tmp_path / "told.jsonl", {"servers": 5, "failure": failure}, events_of(broken.path))
    page = open_page(path)
    assert page.locator("#failure-rule").text_content() == "a made-up rule: votes once (§5.2)"
    assert page.locator("#failure-more").is_hidden()
    page.click("#failure-toggle")
    assert page.locator("#failure-more").is_visible()
    assert page.locator("#failure-more dd").all_text_contents() == ["handouts/lab-2a.md"]
    page.locator("#failure-more .led button").first.click()
    assert know(page, "raftlab.cursor") == len(broken.lines) - 3


def test_a_truncated_trace_has_a_notice_and_no_end(broken: RunTrace, open_page: Open, tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl"
    path.write_bytes(broken.path.read_bytes()[:-30])
    page = open_page(path)
    assert page.locator(".notice").all_text_contents() == [
        f"this trace is cut off after line {len(broken.lines)}: later events are missing"
    ]
    assert know(page, "[raftlab.fails, raftlab.count]") == [-1, len(broken.lines) - 1]
    assert page.locator("#failure-text").is_visible()


def test_a_part_keeps_the_numbers_of_the_whole(busy: RunTrace, open_page: Open) -> None:
    events = events_of(busy.path)
    first = next(number for number, event in enumerate(events) if event["t"] >= 1.0)
    page = open_page(busy.path, f"#e={first + 11}", since=1.0, until=2.0)
    assert page.evaluate("raftlab.data.events[raftlab.cursor]") == events[first + 10]
    assert page.locator(".notice").count() == 1
    look = "raftlab.model.at(raftlab.cursor).map((s) => [s.role, s.term, s.up])"
    in_part = know(page, look)
    whole = open_page(busy.path)
    assert in_part == whole.evaluate(f"raftlab.cursor = {first + 10}, {look}")


# --- looking around ---


def test_clicking_an_arrow(calm: RunTrace, open_page: Open) -> None:
    page = open_page(calm.path)
    # Find an arrow whose middle nothing else covers.
    index, x, y = know(
        page,
        """(() => {
          const { picture, scene } = raftlab;
          const box = picture.canvas.getBoundingClientRect();
          for (const { index, line } of picture.hits) {
            if (!line || scene.events[index].e !== "send") continue;
            const [x, y] = [(line[0] + line[2]) / 2, (line[1] + line[3]) / 2];
            if (picture.hit(x, y) === index) return [index, x + box.left, y + box.top];
          }
        })()""",
    )
    page.mouse.move(x, y)
    assert calm.lines[index] in page.locator("#tip").text_content()
    page.mouse.click(x, y)
    assert know(page, "raftlab.cursor") == index
    assert page.locator("#event .sentence").text_content() == calm.lines[index]
    assert page.locator("#event .rpc-events button").count() >= 2
    fields = dict(
        zip(
            page.locator("#event .fields th").all_text_contents(),
            page.locator("#event .fields td").all_text_contents(),
            strict=True,
        )
    )
    message = events_of(calm.path)[index]["message"]
    assert fields["term"] == str(message["term"])
    assert set(fields) == set(message)
    page.locator("#event .rpc-events button").nth(1).click()
    assert know(page, "raftlab.data.events[raftlab.cursor].e") == "arrive"


def test_a_click_on_the_time_bar_shows_that_moment(busy: RunTrace, open_page: Open) -> None:
    page = open_page(busy.path)
    box = page.locator("#timebar").bounding_box()
    where = box["x"] + box["width"] * 0.6
    wanted = know(page, f"raftlab.scene.shownAt(raftlab.timeBar.timeAt({where - box['x']}))")
    page.mouse.click(where, box["y"] + 15)
    assert know(page, "raftlab.cursor") == wanted
    assert page.locator("#timebar").get_attribute("aria-valuetext").endswith("seconds")
    rows = page.locator("#states tbody tr").all_text_contents()
    states = know(page, "raftlab.model.at(raftlab.cursor)")
    for state, row in zip(states, rows, strict=True):
        assert row.startswith(f"S{state['server']}{state['role']}{state['term']}")
    strips = page.locator("#logs .strip[data-server]")
    assert strips.count() == 5
    texts = strips.all_text_contents()
    for state, text in zip(states, texts, strict=True):
        terms = "".join(str(entry["term"]) for entry in state["entries"])
        assert text[:2] == f"S{state['server']}"
        assert terms.endswith(text[2:])
    assert page.locator("#logs .cell.open").count() > 0
    page.keyboard.press("End")
    assert page.locator("#logs .cell.applied").count() > 0
    page.evaluate(f"raftlab.go({wanted})")
    # The chosen moment is visible, and the page's address names it.
    assert know(page, "raftlab.picture.at(raftlab.cursor) > 34 && raftlab.picture.at(raftlab.cursor) < 700")
    assert page.url.endswith(f"#e={wanted + 1}")


@pytest.mark.parametrize(("link", "cursor"), [("#e=12", 11), ("#t=1.0", None), ("#t=99999", -1), ("#e=999999", -1)])
def test_the_address_chooses_the_moment(link: str, cursor: int | None, calm: RunTrace, open_page: Open) -> None:
    page = open_page(calm.path, link)
    if cursor is None:
        cursor = know(page, "raftlab.scene.rows.findLast((at) => raftlab.data.events[at].t <= 1.0)")
    elif cursor < 0:
        cursor = know(page, "raftlab.scene.rows.at(-1)" if link.startswith("#t") else "raftlab.count - 1")
    assert know(page, "raftlab.cursor") == cursor


def test_keys_move_and_zoom(calm: RunTrace, open_page: Open) -> None:
    page = open_page(calm.path)
    shown = know(page, "[...raftlab.scene.rows]")
    for key, place in [("j", 1), ("ArrowDown", 2), ("k", 1), ("ArrowUp", 0), ("k", 0), ("End", -1), ("j", -1)]:
        page.keyboard.press(key)
        assert know(page, "raftlab.cursor") == shown[place], key
    page.keyboard.press("Home")
    server = know(page, "raftlab.scene.one[raftlab.cursor]")
    page.keyboard.press("n")
    assert know(page, "raftlab.scene.one[raftlab.cursor]") == server
    assert know(page, "raftlab.cursor") > shown[0]
    page.keyboard.press("N")
    assert know(page, "raftlab.cursor") == shown[0]
    page.keyboard.press("PageDown")
    assert know(page, "raftlab.cursor") > shown[10]
    page.keyboard.press("PageUp")
    assert know(page, "raftlab.cursor") <= shown[1]
    page.keyboard.press("Home")
    assert know(page, "raftlab.cursor") == shown[0]
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#help").is_hidden()
    page.keyboard.press("t")
    assert know(page, "raftlab.spacing") == "time"
    page.keyboard.press("+")
    assert know(page, "raftlab.zoom") > 1
    # With this spacing, the distances between events are proportional to time.
    places, times = know(page, "[[...raftlab.scene.y], [...raftlab.scene.times]]")
    scale = places[-1] / times[-1]
    assert all(abs(y - time * scale) < 1e-6 for y, time in zip(places, times, strict=True))


def test_play_ends_at_the_end(calm: RunTrace, open_page: Open) -> None:
    page = open_page(calm.path)
    page.keyboard.press("End")
    page.keyboard.press("k")
    page.keyboard.press(" ")
    page.evaluate(
        """new Promise((done) => {
          const look = () => (raftlab.playing ? requestAnimationFrame(look) : done());
          look();
        })"""
    )
    assert know(page, "raftlab.cursor === raftlab.scene.rows.at(-1)")
    assert page.locator("#play").get_attribute("aria-pressed") == "false"


def test_filters_and_search_choose_the_events_shown(busy: RunTrace, open_page: Open) -> None:
    page = open_page(busy.path)
    events = events_of(busy.path)

    def kinds() -> set[str]:
        shown = know(page, "[...raftlab.scene.rows]")
        return {events[index]["e"] for index in shown}

    beats = """raftlab.scene.shownArrows.filter(({ send }) =>
        send.method === "append_entries" && !send.message.entries?.length).length"""
    assert know(page, beats) > 0
    page.click("[data-kind=heartbeats]")
    assert know(page, beats) == 0
    assert page.locator("[data-kind=heartbeats]").get_attribute("aria-pressed") == "false"
    page.keyboard.press("h")
    assert know(page, beats) > 0
    assert "apply" in kinds()
    page.click("[data-kind=applies]")
    assert "apply" not in kinds()
    page.click("[data-kind=replies]")
    assert "answer" not in kinds()
    page.click("#servers [data-server='2']")
    for index in know(page, "[...raftlab.scene.rows]"):
        event = events[index]
        assert 2 in (event.get("server"), event.get("to"), event.get("from")) or "server" not in event
    page.click("#servers [data-server='2']")
    page.fill("#search", "[election]")
    found = know(page, "raftlab.found")
    assert [index for index, line in enumerate(busy.lines) if "[election]" in line] == found
    assert page.locator("#hits").text_content() == f"{len(found)} found"
    page.check("#only")
    assert know(page, "[...raftlab.scene.rows]") == found
    page.focus("#search")
    page.keyboard.press("Enter")
    assert know(page, "raftlab.cursor") in found
    page.fill("#search", "there is no such thing")
    assert page.locator("#nothing").is_visible()
    page.focus("#search")
    page.keyboard.press("Escape")
    assert page.locator("#nothing").is_hidden()


def test_uninteresting_events_are_hidden_at_first(calm: RunTrace, busy: RunTrace, open_page: Open) -> None:
    page = open_page(calm.path)
    assert page.locator("[data-kind=states]").get_attribute("aria-pressed") == "false"
    assert not know(page, "[...raftlab.scene.rows].some((at) => raftlab.data.events[at].method === 'get_state')")
    page = open_page(busy.path)
    results = know(
        page,
        """[...raftlab.scene.rows].map((at) => raftlab.data.events[at])
          .filter((one) => one.e === "result").map((one) => one.message)""",
    )
    assert results
    assert all(result[2] for result in results)


def test_every_message_has_its_arrow(busy: RunTrace, open_page: Open) -> None:
    fates = know(
        open_page(busy.path), "raftlab.scene.arrows.map(({ leg, fate, start, end }) => ({ leg, fate, start, end }))"
    )
    events = events_of(busy.path)
    count = {kind: sum(event["e"] == kind for event in events) for kind in trace.FIELDS}
    sent = [arrow for arrow in fates if arrow["leg"] == "request"]
    assert len(sent) == count["send"]
    assert len(fates) - len(sent) == count["answer"]
    assert sum(arrow["fate"] == "arrived" for arrow in sent) == count["arrive"]
    assert sum(arrow["fate"] == "lost" for arrow in fates) == count["lost"] > 0
    for arrow in fates:
        if arrow["end"] >= 0:
            assert events[arrow["start"]]["id"] == events[arrow["end"]]["id"]


def test_arrows_of_held_and_repeated_messages(open_page: Open, tmp_path: Path) -> None:
    send = ("send", 0, 1, 1, "append_entries", append(1))
    arrive = ("arrive", 1, 0, 1, "append_entries")
    events = message_run(
        send,
        ("hold", 1, "request"),
        ("release", 1, "request"),
        arrive,
        arrive,
        ("crash", 1),
        ("lost", 1, "request", "down"),
    )
    page = open_page(write(tmp_path / "held.jsonl", {"servers": 3}, events))
    first, second = know(page, "raftlab.scene.arrows")
    assert (first["hold"], first["release"], first["end"], first["fate"]) == (4, 5, 6, "arrived")
    assert (second["start"], second["end"], second["fate"]) == (3, 7, "arrived")
    assert know(page, "raftlab.scene.arrowOf.get(9).id") == 1


# --- themes and screen readers ---


def test_the_theme_follows_the_system_until_it_is_switched(calm: RunTrace, open_page: Open) -> None:
    page = open_page(calm.path)

    def colour() -> str:
        # The page learns of the system's new preference at the next frame.
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return str(page.evaluate("raftlab.colours.bg + getComputedStyle(document.body).backgroundColor"))

    light = colour()
    page.emulate_media(color_scheme="dark")
    dark = colour()
    assert light != dark
    page.keyboard.press("d")
    assert colour() == light
    page.emulate_media(color_scheme="light")
    page.keyboard.press("d")
    assert colour() == dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(scheme: str, calm: RunTrace, open_page: Open) -> None:
    page = open_page(calm.path)
    page.emulate_media(color_scheme=scheme)
    colours = know(page, "raftlab.colours")
    for name in ("ink", "soft", "accent", "bad", "good", "warn"):
        assert contrast(colours[name], colours["bg"]) >= 4.5, name
        assert contrast(colours[name], colours["panel"]) >= 4.5, name
    for term in colours["terms"]:
        assert contrast(term, colours["bg"]) >= 4.5, term


def contrast(one: str, two: str) -> float:
    """The contrast of two colours, as WCAG 2 defines it."""

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((light(one), light(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_control_has_a_name(broken: RunTrace, open_page: Open) -> None:
    page = open_page(broken.path)
    nameless = page.evaluate("""() => [...document.querySelectorAll("button, input, canvas[tabindex], [role=application]")]
      .filter((one) => !one.getAttribute("aria-label") && !one.textContent.trim())
      .filter((one) => !one.closest("label")?.textContent.trim())
      .map((one) => one.outerHTML)""")
    assert nameless == []
    page.keyboard.press("Home")
    page.keyboard.press("j")
    assert broken.lines[know(page, "raftlab.cursor")] in page.locator("#spoken").text_content()


def test_the_page_fits_on_a_laptop(broken: RunTrace, open_page: Open) -> None:
    page = open_page(broken.path)
    assert page.evaluate("document.documentElement.scrollWidth <= 1366 && document.documentElement.scrollHeight <= 768")
    assert page.locator("#stage").bounding_box()["height"] > 500


# --- fifty thousand events ---


def test_a_trace_of_fifty_thousand_events_is_shown_fast(busy: RunTrace, open_page: Open, tmp_path: Path) -> None:
    events = events_of(busy.path)
    many: list[dict[str, Any]] = []
    for round_ in range(50_000 // len(events) + 1):
        shift, apart = round_ * (events[-1]["t"] + 0.1), round_ * 100_000
        many += [
            {**event, "t": event["t"] + shift, **({"id": event["id"] + apart} if "id" in event else {})}
            for event in events
        ]
    page = open_page(write(tmp_path / "many.jsonl", {"servers": 5}, many))
    assert know(page, "raftlab.count") >= 50_000
    took = page.evaluate("""() => {
      const clock = (what) => {
        const began = performance.now();
        what();
        raftlab.paint();
        return performance.now() - began;
      };
      const middle = (times) => times.sort((one, two) => one - two)[times.length >> 1];
      const rounds = (what) => middle(Array.from({ length: 15 }, (_, number) => clock(() => what(number))));
      return {
        load: raftlab.loadTime,
        scrub: rounds((number) => raftlab.goToTime(raftlab.timeBar.length * ((number * 7) % 15) / 15)),
        filter: rounds(() => raftlab.toggleKind("heartbeats")),
        painted: raftlab.picture.hits.length,
      };
    }""")
    # The limits (milliseconds) are several times what an old laptop takes, so that a slow page fails the test but a busy
    # machine does not.
    assert took["load"] < 5000, took
    assert took["scrub"] < 250, took
    assert took["filter"] < 500, took
    assert took["painted"] < 1000, "the page paints more than what is on the screen"
