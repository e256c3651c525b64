"""The heat maps of models and hosts: each cell is the frame's, the order shows generations, and the words say the same."""

from itertools import pairwise

import matplotlib.pyplot as plt
import pytest

from kvmlab import plots
from kvmlab.columns import frame
from kvmlab.errors import KvmlabError
from kvmlab.plots.models import STARTS, UNKNOWN

DASH = "\u2013"
LACKING = {  # model and its vendor: flags that the hosts lack
    ("Newest", "Intel"): {"old": "a, b, c, d", "mid": "d", "new": ""},
    ("Oldest", "Intel"): {"old": "", "mid": "", "new": ""},
    ("Middle", "Intel"): {"old": "a, b, c", "mid": "", "new": ""},
    ("anyone", None): {"old": "", "mid": "", "new": ""},
    ("Other", "AMD"): {"old": "x, y", "mid": "x", "new": "x"},
}


def starts(hosts=("new", "old", "mid"), made_up=(), unknown=()):
    rows = []
    for (model, vendor), by_host in LACKING.items():
        for host in hosts:
            known = (model, host) not in unknown
            rows.append(
                (model, host, not by_host[host] if known else None, by_host[host] if known else "", "" if known else "u", vendor, "Intel")
            )
    data = frame(rows, "will_start")
    data.attrs["made_up"] = list(made_up)
    return data


def moves():
    rows = [
        ("old", "new", True, "", "Oldest", None),
        ("new", "old", False, "a, b", "Oldest", "flags are missing"),
        *(
            (a, b, False, None, None, "Intel to AMD: another vendor")
            for pair in (("amd", "old"), ("amd", "new"))
            for a, b in (pair, pair[::-1])
        ),
    ]
    return frame(rows, "will_migrate")


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def marks(ax):
    return {
        (round(text.get_position()[0]), round(text.get_position()[1])): text.get_text()
        for text in ax.texts
        if text.get_text()[:1] in f"0123456789?{DASH}"
    }


def colors(ax):
    """(column, row) -> colour of its cell."""
    (cells,) = ax.collections
    places = [path.get_extents() for path in cells.get_paths()]
    return {
        (round(box.x0 + 0.5), round(box.y0 + 0.5)): plt.matplotlib.colors.to_hex(c)
        for box, c in zip(places, cells.get_facecolor(), strict=True)
    }


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_hosts_and_models_stand_as_a_staircase():
    ax = plots.will_start(starts())
    assert labels(ax.xaxis) == ["old", "mid", "new"]
    assert labels(ax.yaxis) == ["anyone", "Oldest", "Middle", "Newest", "Other"]
    assert ax.get_title("left") == "Of 5 CPU models, 2 to 4 start on each of 3 hosts"


def test_each_cell_has_its_number_and_colour():
    ax = plots.will_start(starts())
    assert marks(ax) == {(0, 2): "3", (0, 3): "4", (1, 3): "1", (0, 4): "2", (1, 4): "1", (2, 4): "1"}
    full = {place for place, color in colors(ax).items() if color == STARTS.lower()}
    assert full == {(x, y) for x in range(3) for y in range(5)} - marks(ax).keys()


def test_what_cannot_be_known_is_a_question_mark_on_grey():
    ax = plots.will_start(starts(unknown={("Newest", "new")}))
    place = (labels(ax.xaxis).index("new"), labels(ax.yaxis).index("Newest"))
    assert marks(ax)[place] == "?" and colors(ax)[place] == UNKNOWN
    assert "of 1 it cannot be known" in plots.will_start_in_words(starts(unknown={("Newest", "new")}))


def test_a_model_of_another_architecture_has_no_cell():
    rows = [("Westmere", "x", True, "", "", "Intel", "Intel"), ("cortex-a57", "arm", None, None, None, "ARM", None)]
    ax = plots.will_start(frame(rows, "will_start"))
    assert len(colors(ax)) == 2 and list(marks(ax).values()) == ["?"]


def test_made_up_hosts_are_called_so():
    assert "none is a machine" in plots.will_start(starts(made_up=("new", "old", "mid"))).get_title("left")
    some = starts(made_up=("old",))
    ax = plots.will_start(some)
    assert labels(ax.xaxis)[0] == "old (made up)" and "none is a machine" not in ax.get_title("left")
    assert "(made up: old)" in plots.will_start_in_words(some)


def test_a_single_host_has_the_flags_beside_its_cells():
    ax = plots.will_start(starts(hosts=("old",)))
    assert "a b c d" in [text.get_text() for text in ax.texts]
    assert ax.get_title("left") == "2 of 5 CPU models start on old"


def test_the_words_name_what_is_nearest():
    words = plots.will_start_in_words(starts())
    assert "mid: 3 start, Newest lacks d, Other lacks x" in words
    assert "old: 2 start, Other lacks x y, Middle lacks a b c" in words


def test_moves_stand_by_vendor_with_the_poorest_first():
    ax = plots.will_migrate(moves())
    assert labels(ax.xaxis) == labels(ax.yaxis) == ["old", "new", "amd"]
    assert marks(ax) == {(0, 1): "2\nOldest", (2, 0): DASH, (2, 1): DASH, (0, 2): DASH, (1, 2): DASH}
    assert colors(ax)[1, 0] == STARTS.lower() and (0, 0) not in colors(ax)
    assert ax.get_title("left") == "1 of 6 moves between 3 hosts go as they are"


def test_the_words_of_moves_name_the_flags_and_the_model():
    words = plots.will_migrate_in_words(moves())
    assert "from new to 0 of 2, 1 is of another vendor or architecture; to old, a b in the way, it moves as Oldest" in words
    assert "from old to 1 of 2" in words and "from amd to 0 of 2, 2 are of another vendor or architecture." in words


def test_of_one_host_and_of_none_a_title_says_so():
    assert "nowhere to move" in plots.will_migrate(frame([], "will_migrate")).get_title("left")
    assert "nowhere to move" in plots.will_migrate_in_words(frame([], "will_migrate"))
    assert "0 CPU models" in plots.will_start(frame([], "will_start")).get_title("left")


def test_another_frame_is_refused():
    with pytest.raises(KvmlabError, match=r"pass the one of models\.will_start\(\)"):
        plots.will_start(moves())
    with pytest.raises(KvmlabError, match=r"pass the one of models\.will_migrate\(\)"):
        plots.will_migrate(starts())


def test_sixty_models_on_thirty_hosts_fit_a_notebook():
    rows = [(f"m{m}", f"h{h}", m <= h, ", ".join("f" * max(0, m - h)), "", "Intel", "Intel") for m in range(60) for h in range(30)]
    ax = plots.will_start(frame(rows, "will_start"))
    ax.figure.canvas.draw()
    assert ax.figure.get_size_inches()[0] <= 9.5
    heights = [label.get_window_extent() for label in ax.yaxis.get_ticklabels()]
    assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(heights))
