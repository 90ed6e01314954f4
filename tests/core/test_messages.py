"""Messages: what a terminal would obey is shown, not done."""

import pytest

from stages.core.errors import UserError
from stages.core.messages import printable, say
from stages.core.stage import guarded

ATTACKS = [
    "\x1b[2J\x1b[31m",
    "\x1b]0;title\x07",
    "\x9b2J",
    "gone\rspoof",
    "\b\b\b",
    "\x00",
    "\u202egnp.exe",
    "\ud83d",
]


@pytest.mark.parametrize("attack", ATTACKS, ids=ascii)
def test_what_a_terminal_would_obey_is_written_out(attack, capsys):
    def fail():
        raise UserError(f"the server said {attack}")

    assert guarded(fail) == 2
    say("it said", attack)
    told = capsys.readouterr().err
    assert told.count("\n") == 2 and not set(told.replace("\n", "")) & set(
        map(chr, [*range(32), 127, 0x9B, 0x202E])
    )
    assert ascii(attack)[1:-1] in told


def test_what_people_write_stays():
    text = "straße, 数学, שלום,\u200f नमस्ते, 👩\u200d👧, a\tb\nc\u00a0d"
    assert printable(text) == text
