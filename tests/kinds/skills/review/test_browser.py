"""The review page in a real headless Chromium, against a real server process."""

import time
from pathlib import Path

import pytest

from stages.core.files import read_jsonl
from stages.kinds.skills.parts.review.decisions import Change, decided, read_decisions, save_decisions
from tests.helpers.browser import CHROMIUM, browser, until  # noqa: F401
from tests.kinds.skills.review.test_decisions import SKILLS, candidates, first, make_project, many, row_of
from tests.kinds.skills.review.test_server import serving

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
WEATHER = "What is the weather in Berlin?"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_project(tmp_path)


@pytest.fixture
def visit(browser):  # noqa: F811
    """Open the page in a context of its own; at the end no script may have failed in any."""
    contexts, errors = [], []

    def opened(url: str, user: str | None = None, **options):
        context = browser.new_context(viewport={"width": 1200, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: "Security Policy" in line.text and errors.append(line.text))
        page.goto(url + (f"/#state=&id={row_of(user)['id']}" if user else ""))
        page.wait_for_selector("#request, .empty:not(:has-text('Loading'))")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []


def shown(page) -> str:
    return page.inner_text("#request")


def saved(page) -> None:
    until(page, "document.getElementById('saved').textContent === 'saved'")


def stored(project: Path) -> dict[str, tuple]:
    """The file's decisions: user → (decision, new user, new call)."""
    rows = read_jsonl(project / "prompts/otto/decisions.jsonl")
    return {row["user"]: (row["decision"], row.get("new_user"), row.get("new_call")) for row in rows}


def test_decide_by_key(project, visit):
    with serving(project) as (url, _):
        page = visit(url)
        with_notes = [shown(page)]
        page.keyboard.press("a")
        with_notes.append(shown(page))
        page.keyboard.press("r")
        noted = {row["user"] for row in candidates() if row["notes"]}
        assert noted >= set(with_notes) and page.locator(".notes").count() == (len(noted) > 2)
        page.keyboard.press("j")
        page.keyboard.press("ArrowLeft")
        third = shown(page)
        page.keyboard.press("e")
        page.fill("#user", "  What is\n1 plus 1 ")
        page.fill("#call", "math(question='1+1')")
        page.keyboard.press("Enter")
        page.wait_for_selector("#request")
        saved(page)
        edit = ("edit", "What is 1 plus 1", 'math(question="1+1")')
        accepted, rejected = ("accept", None, None), ("reject", None, None)
        assert stored(project) == {with_notes[0]: accepted, with_notes[1]: rejected, third: edit}
        assert page.inner_text("#progress span") == "3 of 30 decided"
        assert page.inner_text("#skills button[data-skill=math]").split() == ["math", "3/6"]
        for left in (2, 1, 0):
            page.keyboard.press("u")
            until(page, f"document.querySelector('#progress span').textContent.startsWith('{left} ')")
        saved(page)
        assert stored(project) == {} and shown(page) == with_notes[0]


def test_decide_by_button(project, visit):
    with serving(project) as (url, _):
        page = visit(url)
        users = []
        for name in ("Accept", "Reject"):
            users.append(shown(page))
            page.get_by_role("button", name=name, exact=False).last.click()
        page.get_by_role("button", name="Next").click()
        page.get_by_role("button", name="Previous").click()
        page.get_by_role("button", name="Undo").click()
        saved(page)
        assert stored(project) == {users[0]: ("accept", None, None)} and shown(page) == users[1]
        page.get_by_role("button", name="Help").click()
        assert "undo the last action" in page.inner_text("dialog[open]")
        page.keyboard.press("a")  # the dialog has the keys
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Edit").click()
        page.get_by_role("button", name="Cancel").click()
        assert len(stored(project)) == 1


def test_an_edit_that_breaks_the_schema_shows_the_problem_and_keeps_the_form(project, visit):
    with serving(project) as (url, _):
        page = visit(url, "List my notes")
        page.keyboard.press("e")
        for call, problem in (
            ('notes(action="delete")', "notes, action: expected one of add, list, found 'delete'"),
            ("notes(", "not a call"),
        ):
            page.fill("#call", call)
            page.keyboard.press("Enter")
            page.get_by_text(problem).wait_for()
            assert page.input_value("#call") == call
        assert not (project / "prompts").exists()
        page.keyboard.press("Escape")
        assert shown(page) == "List my notes"
        page.keyboard.press("e")
        page.fill("#call", 'notes(action="add")')
        page.keyboard.press("Enter")
        page.wait_for_selector("#request")
        assert stored(project) == {"List my notes": ("edit", "List my notes", 'notes(action="add")')}
        page.keyboard.press("k")
        assert page.inner_text(".was") == 'List my notes → notes(action="list")'


def test_filters_search_and_bulk(project, visit):
    with serving(project) as (url, _):
        page = visit(url)
        page.click("#skills button[data-skill=weather]")
        assert page.inner_text("#shown") == "8 shown"
        page.select_option("#origin", "file")
        files = [row for row in candidates() if row["skill"] == "weather" and row["origin"] == "file"]
        assert page.inner_text("#shown") == f"{len(files)} shown"
        page.get_by_role("button", name="Show all").click()
        page.check("#notes")
        assert page.inner_text("#shown") == "3 shown"
        page.uncheck("#notes")
        page.select_option("#variety", "near_miss")
        assert shown(page) == "What is the weather in your heart?"
        page.select_option("#variety", "")
        page.keyboard.press("/")
        page.keyboard.type("NOTES")  # in requests and calls, whatever the case
        assert page.inner_text("#shown") == "7 shown"
        page.keyboard.press("Escape")
        page.keyboard.press("a")
        saved(page)
        page.get_by_role("button", name="Reject all").click()
        assert "Reject 7 candidates?" in page.inner_text("dialog[open]")
        assert "1 candidate of these is decided otherwise" in page.inner_text("dialog[open]")
        page.locator("dialog").get_by_role("button", name="Cancel").click()
        assert len(stored(project)) == 1
        page.get_by_role("button", name="Reject all").click()
        page.locator("dialog").get_by_role("button", name="Reject").click()
        until(page, "document.querySelector('#progress span').textContent.startsWith('7 ')")
        saved(page)
        assert {kind for kind, *_ in stored(project).values()} == {"reject"} and len(stored(project)) == 7
        page.select_option("#state", "none")
        assert page.inner_text(".empty").startswith("No candidate fits")
        page.keyboard.press("u")
        saved(page)
        assert {kind for kind, *_ in stored(project).values()} == {"accept"} and len(stored(project)) == 1


def test_texts_are_shown_as_texts(project, visit):
    with serving(project) as (url, _):
        page = visit(url, "<script>")
        assert shown(page) == "<script>document.title = 'broken'</script> & <b>bold</b>"
        assert page.title() == "Review otto" and page.locator("#one b").count() == 0
        page = visit(url, "Write down")
        assert shown(page) == 'Write down "to be, or not to be"'
        assert page.inner_text("mark") == "to be, or not to be"
        assert page.inner_text(".call") == 'notes(action="add", note="to be, or not to be")'


def test_near_neighbours_are_shown_and_open(project, visit):
    with serving(project) as (url, _):
        page = visit(url, WEATHER)
        page.get_by_role("button", name="What is the weather in your heart?").click()
        assert shown(page) == "What is the weather in your heart?"


def test_reload_and_a_new_server_keep_everything(project, visit):
    with serving(project) as (url, server):
        page = visit(url)
        page.click("#skills button[data-skill=other]")
        page.keyboard.press("a")
        page.keyboard.press("j")
        here = shown(page)
        saved(page)
        page.reload()
        page.wait_for_selector("#request")
        assert shown(page) == here and page.inner_text("#shown") == "8 shown"
        assert page.inner_text("#progress span") == "1 of 30 decided"
        server.kill()
        server.wait()
        page.keyboard.press("r")
        page.get_by_text("1 not saved: no answer from the server").wait_for()
        page.keyboard.press("r")
        page.get_by_text("2 not saved: no answer from the server").wait_for()
        assert page.inner_text("#progress span") == "3 of 30 decided" and len(stored(project)) == 1
        page.get_by_role("button", name="Save again").click()
        page.get_by_text("2 not saved: no answer from the server").wait_for()
    with serving(project, int(url.rpartition(":")[2])):
        saved(page)  # by itself
        assert sorted(kind for kind, *_ in stored(project).values()) == ["accept", "reject", "reject"]
        assert stored(project)[here] == ("reject", None, None)


def test_a_save_that_failed_can_be_repeated_and_still_overwrites_nothing(project, visit):
    with serving(project) as (url, _):
        page = visit(url, WEATHER)
        page.evaluate(CUT)  # a route of Playwright's now and then lets the first request pass
        page.keyboard.press("a")
        page.keyboard.press("a")
        page.get_by_text("2 not saved").wait_for()
        save_decisions(project / "prompts/otto/decisions.jsonl", [first(WEATHER, "reject")])
        page.evaluate("() => { window.fetch = window.uncut; }")
        page.evaluate(DEAF)  # so that nothing is tried again by itself
        page.get_by_role("button", name="Save again").click()
        page.get_by_text(f"“{WEATHER}” is now rejected").wait_for()
        page.get_by_text("1 not saved").wait_for()
        assert sorted(kind for kind, *_ in stored(project).values()) == ["accept", "reject"]
        assert stored(project)[WEATHER][0] == "reject"


def test_a_failed_edit_keeps_its_text(project, visit):
    with serving(project) as (url, server):
        page = visit(url, WEATHER)
        page.keyboard.press("e")
        page.fill("#user", "Is it warm in Berlin?")
        server.kill()
        server.wait()
        page.keyboard.press("Enter")
        page.get_by_text("Not saved: no answer from the server").wait_for()
    with serving(project, int(url.rpartition(":")[2])):
        page.focus("#user")
        page.keyboard.press("Enter")
        page.wait_for_selector("#request")
        assert stored(project)[WEATHER] == ("edit", "Is it warm in Berlin?", 'weather(location="Berlin")')


CUT = "() => { window.uncut = fetch; window.fetch = () => Promise.reject(new TypeError('cut')); }"
DEAF = """(real => {
  window.fetch = (...given) => String(given[0]).includes("state") ? new Promise(() => {}) : real(...given);
})(fetch)"""


@pytest.mark.slow
def test_two_tabs_do_not_overwrite_each_other(project, visit):
    with serving(project) as (url, _):
        page, other = visit(url, WEATHER), visit(url, WEATHER)
        other.evaluate(DEAF)  # hears nothing of the first
        page.keyboard.press("a")
        saved(page)
        other.keyboard.press("r")
        other.get_by_text(
            f"“{WEATHER}” is now accepted, decided elsewhere. Here it was to be rejected."
        ).wait_for()
        assert stored(project)[WEATHER][0] == "accept" and other.inner_text("#saved") == "1 not saved"
        other.get_by_role("button", name="Keep theirs").click()
        saved(other)
        other.keyboard.press("k")
        other.keyboard.press("k")
        assert shown(other) != WEATHER or other.inner_text("#one .state").endswith("accepted")
        # Again, and now this tab insists:
        page.goto(f"{url}/#state=&id={row_of('42')['id']}")
        page.reload()
        page.wait_for_selector("#request")
        assert shown(page) == "42"
        page.keyboard.press("a")
        saved(page)
        other.evaluate(f"current = {row_of('42')['id']!r}; render()")
        other.keyboard.press("r")
        other.get_by_role("button", name="Save mine").click()
        saved(other)
        assert stored(project)["42"][0] == "reject"
        # The first tab hears of it by itself, and does not undo what another has changed:
        page.get_by_role("button", name="Previous").click()
        until(page, f"kind({row_of('42')['id']!r}) === 'reject'")
        page.keyboard.press("u")
        assert "not undone" in page.text_content("#said") and stored(project)["42"][0] == "reject"


def test_an_edit_begun_on_an_old_decision_asks_again(project, visit):
    with serving(project) as (url, _):
        page = visit(url, WEATHER)
        page.keyboard.press("e")
        page.fill("#user", "Weather in Berlin, please")
        save_decisions(project / "prompts/otto/decisions.jsonl", [first(WEATHER, "reject")])
        until(page, f"known.has({row_of(WEATHER)['id']!r})")  # heard of while the form is open
        page.keyboard.press("Enter")
        page.get_by_text("In the meantime this was decided elsewhere: rejected.").wait_for()
        assert stored(project)[WEATHER][0] == "reject"
        page.keyboard.press("Enter")
        page.wait_for_selector("#request")
        assert stored(project)[WEATHER][1] == "Weather in Berlin, please"


def test_changes_of_the_file_and_new_candidates_are_seen(project, visit):
    path = project / "prompts/otto/decisions.jsonl"
    with serving(project) as (url, _):
        page = visit(url, WEATHER)
        save_decisions(path, [first(WEATHER, "accept")])
        until(page, "document.querySelector('#one .state').textContent.endsWith('accepted')")
        whole = path.read_text()
        focus = "dispatchEvent(new Event('focus'))"  # sooner than the next poll
        path.write_text(whole[:-4])
        page.evaluate(focus)
        page.get_by_text("decisions.jsonl, row 1: not valid JSON").wait_for()
        path.write_text(whole)
        page.evaluate(focus)
        page.get_by_text("not valid JSON").wait_for(state="detached")
        make_project(project, candidates()[:4])
        page.evaluate(focus)
        page.get_by_text("of 4 decided").wait_for()


def test_a_phone_shows_all_without_scrolling_sideways(project, visit):
    with serving(project) as (url, _):
        page = visit(url)
        page.set_viewport_size({"width": 375, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == 375
        for button in page.locator("#actions button").all():
            box = button.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 375 and box["height"] >= 32
        page.get_by_text("Filters ·").click()
        page.select_option("#state", "accept")
        assert page.inner_text(".empty").startswith("No candidate fits")


@pytest.mark.slow
def test_twenty_thousand_candidates_are_fast(tmp_path, monkeypatch, visit):
    monkeypatch.chdir(tmp_path)
    rows = many(20_000)
    project = make_project(tmp_path, rows)
    path = project / "prompts/otto/decisions.jsonl"
    save_decisions(
        path, [Change(row["id"], decided(row, "accept", "", "", SKILLS), None) for row in rows[:5000]]
    )
    with serving(project) as (url, _):
        page = visit(f"{url}/#state=")
        assert page.inner_text("#progress span") == "5,000 of 20,000 decided"

        def timed(act) -> float:
            """Milliseconds until the page has been laid out again."""
            return page.evaluate(
                f"async () => {{ const from = performance.now(); {act}; document.body.offsetHeight; "
                "await new Promise(requestAnimationFrame); return performance.now() - from; }"
            )

        times = {
            "next": timed("actions.next()"),
            "accept": timed("actions.accept()"),
            "search": timed("setFilter({q: 'oslo'})"),
            "clear": timed("setFilter({q: ''})"),
        }
        print({name: round(value) for name, value in times.items()})
        assert max(times.values()) < 1500  # tens of ms on an idle machine
        saved(page)
        started = time.monotonic()
        page.keyboard.press("r")
        saved(page)
        assert time.monotonic() - started < 5
        assert len(read_decisions(path)) >= 5000
