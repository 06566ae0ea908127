import re
import subprocess
import sys
import threading
from io import StringIO

import pytest
from rich.console import Console

from a3c.experiment import live
from a3c.experiment.live import PlainView, QuietView, RichLiveView, choose_view


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told to go on."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(live, "time", clock)
    return clock


def line(env_steps=312_480, seconds=3.6, **other):
    return {
        "env_steps": env_steps,
        "seconds": seconds,
        "updates": 2441,
        "episodes": 873,
        "return_mean_100": 312.44,
        "return_mean": 312.44,
        "steps_per_second": 98_214.2,
        "staleness_mean": 0.81,
        "staleness_max": 3,
        "workers_alive": 2,
    } | other


UNKNOWN = {"return_mean": None, "staleness_mean": None, "staleness_max": None, "episodes": 0}


class Terminal(StringIO):
    """What a terminal shows in the end: obeys what rich uses to go up and to erase."""

    def isatty(self):
        return True

    def screen(self):
        rows, at = [""], 0
        for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\n|\r)", self.getvalue()):
            if part == "\n":
                at += 1
                rows += [""] * (at + 1 - len(rows))
            elif match := re.fullmatch(r"\x1b\[(\d*)A", part):
                at -= int(match[1] or 1)
            elif part == "\x1b[2K":
                rows[at] = ""
            elif not part.startswith("\x1b") and part != "\r":
                rows[at] += part
        return "\n".join(rows)


def rich_view(total_env_steps=1_000_000, total_episodes=None, width=80, title="a3c on CartPole-v1"):
    terminal = Terminal()
    console = Console(file=terminal, force_terminal=True, width=width)
    return RichLiveView(title, total_env_steps, total_episodes, 2, console=console), terminal


class TestRichLiveView:
    def test_shows_all_there_is_to_know(self, clock):
        view, terminal = rich_view()
        view.show(line(0, 2.6))
        view.show(line())
        view.close()
        screen = terminal.screen()
        for text in (
            "a3c on CartPole-v1",
            "31% 0:03 elapsed, ETA 0:02",
            "312,480 of 1,000,000, 98,214/s",
            "312.4 (mean of the last 100 episodes)",
            "0.81 mean, 3 max",
            "2 of 2 alive",
            "873",
        ):
            assert screen.count(text) == 1  # in place: the last panel replaced the ones before
        assert "━" in screen

    def test_at_the_end_no_workers_are_counted(self, clock):
        view, terminal = rich_view()
        view.show(line())
        view.show(line(workers_alive=0))
        view.close()
        assert "workers" not in terminal.screen()

    def test_what_is_not_known_is_a_dash(self, clock):
        view, terminal = rich_view()
        view.show(line(**UNKNOWN))
        view.close()
        assert re.search(r"return +- ", terminal.screen())
        assert "mean of the last" not in terminal.screen()
        assert "- mean, - max" in terminal.screen()
        assert "ETA -:--" in terminal.screen()

    def test_few_episodes_and_the_newest_evaluation(self, clock):
        view, terminal = rich_view()
        view.show(line(episodes=7, evaluation_return_mean=0.175))
        view.show(line(episodes=9, evaluation_return_mean=None))
        view.close()
        assert "312.4 (mean of the last 9 episodes)" in terminal.screen()
        assert "evaluation  0.175" in terminal.screen()

    def test_a_budget_in_episodes_and_none_at_all(self, clock):
        view, terminal = rich_view(total_env_steps=None, total_episodes=1746)
        view.show(line())
        view.close()
        assert "50%" in terminal.screen()
        assert "873 of 1,746" in terminal.screen()
        view, terminal = rich_view(total_env_steps=None)
        view.show(line())
        view.close()
        assert "0:03 elapsed" in terminal.screen()
        assert "%" not in terminal.screen()

    def test_draws_a_few_times_a_second_and_the_last_line_at_the_end(self, clock):
        view, terminal = rich_view()
        view.show(line(1))
        drawn = len(terminal.getvalue())
        for steps in range(2, 1000):
            view.show(line(steps))
        assert len(terminal.getvalue()) == drawn
        clock.now += 0.25
        view.show(line(1000))
        assert len(terminal.getvalue()) > drawn
        view.show(line(7777))
        view.close()
        assert "7,777 of" in terminal.screen()

    def test_a_message_stays_above_the_panel_and_is_no_markup(self, clock):
        view, terminal = rich_view(title="a3c on [red]odd[/]")
        view.message("a [bold]warning[/] of 3.5")
        view.show(line())
        thread = threading.Thread(target=view.message, args=("from another thread",))
        thread.start()
        thread.join()
        view.close()
        screen = terminal.screen()
        assert screen.index("a [bold]warning[/] of 3.5") < screen.index("from another thread") < screen.index("╭")
        assert "a3c on [red]odd[/]" in screen
        assert screen.count("[bold]") == 1
        assert screen.count("╭") == 1

    def test_gives_the_terminal_back_however_it_ends(self):
        stdout = sys.stdout
        view, terminal = rich_view()
        with pytest.raises(KeyboardInterrupt), view:
            raise KeyboardInterrupt
        view.close()
        assert sys.stdout is stdout
        assert terminal.getvalue().count("\x1b[?25l") == terminal.getvalue().count("\x1b[?25h") == 1  # the cursor

    @pytest.mark.parametrize("width", [20, 40, 200])
    def test_any_width(self, clock, width):
        view, terminal = rich_view(width=width)
        view.show(line())
        view.close()
        assert max(map(len, terminal.screen().splitlines())) <= width


class TestPlainView:
    def test_a_line_every_two_seconds_and_the_last_one(self, clock, capsys):
        with PlainView(1_000_000, None) as view:
            for k in range(21):  # every 0.25 s: printed at 0, 2 and 4 s
                view.show(line(1000 * k, 3 + k / 4))
                clock.now += 0.25
            assert capsys.readouterr().out.count("\n") == 3
        assert capsys.readouterr().out == (
            "0:08  2%  20,000 steps  98,214/s  873 episodes  return 312.4  staleness 0.81 (max 3)  2 workers\n"
        )
        view.close()
        assert capsys.readouterr().out == ""

    def test_a_last_line_that_stands_is_not_repeated(self, clock, capsys):
        with PlainView(None, None) as view:
            view.show(line(**UNKNOWN))
        out = capsys.readouterr().out
        assert out == "0:03  312,480 steps  98,214/s  0 episodes  return -  staleness - (max -)  2 workers\n"

    def test_an_evaluation_is_told_once_whenever_it_comes(self, clock, capsys):
        with PlainView(1_000_000, None) as view:
            for k in range(17):  # printed at 0, 2 and 4 s
                view.show(line(1000 * k, evaluation_return_mean=-78.25 if k == 3 else None))
                clock.now += 0.25
        told = [text.endswith("2 workers  evaluation -78.2") for text in capsys.readouterr().out.splitlines()]
        assert told == [False, True, False]

    def test_the_seconds_of_a_run_are_a_budget_like_others(self, clock, capsys):
        with PlainView(1_000_000, None, 4.5) as view:
            view.show(line(seconds=3.6))
        assert capsys.readouterr().out.startswith("0:03  80%  ")

    def test_messages_are_printed_at_once(self, capsys):
        view = PlainView(None, None)
        view.message("a note")
        assert capsys.readouterr().out == "a note\n"
        view.close()
        assert capsys.readouterr().out == ""


def test_quiet_shows_nothing_and_loses_no_warning(capsys):
    with QuietView() as view:
        view.show(line())
        view.message("a warning")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "a warning\n")


@pytest.mark.parametrize(
    ("quiet", "terminal", "term", "expected"),
    [
        (True, True, "xterm", QuietView),
        (False, True, "xterm", RichLiveView),
        (False, True, "dumb", PlainView),
        (False, False, "xterm", PlainView),
    ],
)
def test_the_view_fits_standard_output(monkeypatch, quiet, terminal, term, expected):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stdout", Terminal() if terminal else StringIO())
    with choose_view(quiet, title="t", total_env_steps=10, total_episodes=None, workers=2) as view:
        assert type(view) is expected


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3725, "1:02:05"), (None, "-:--")]
)
def test_clock(seconds, text):
    assert live._clock(seconds) == text


def test_the_budget_that_is_further_spent_counts():
    budget = live._Budget(1000, 100)
    budget.see({"env_steps": 100, "episodes": 5, "seconds": 10.0})
    assert budget.share == 0.1
    assert budget.remaining_s is None
    budget.see({"env_steps": 200, "episodes": 60, "seconds": 20.0})
    assert budget.share == 0.6
    assert budget.remaining_s == pytest.approx(0.4 * 10 / 0.5)
    budget.see({"env_steps": 1100, "episodes": 60, "seconds": 30.0})
    assert (budget.share, budget.remaining_s) == (1.0, 0.0)


def test_rich_is_imported_by_the_rich_view_only():
    code = "import sys, a3c.experiment.live as live; live.PlainView(1, 1).close(); print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("counts", "bars"),
    [
        (None, ""),
        ({}, ""),
        ({"0": 5}, "█"),
        ({"1": 800, "0": 100, "3": 1}, "▁█ ▁"),
        ({"2": 4, "1": 8}, " █▄"),
        ({str(n): 1 for n in range(100)}, "▁" * 23 + "█"),
    ],
    ids=str,
)
def test_staleness_is_drawn(counts, bars):
    assert live._bars(counts) == bars
