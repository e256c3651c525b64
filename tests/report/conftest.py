"""Small notebooks to report on, made here."""

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def notebook(path: Path, *code: str, parameters: str | None = None, text: str = "# A try") -> Path:
    """These cells, after a text and the cell with parameters."""
    cells = [new_markdown_cell(text)]
    if parameters is not None:
        cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    nbformat.write(new_notebook(cells=cells + [new_code_cell(cell) for cell in code], metadata=KERNEL), path)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One report of a notebook that shows a bit of everything: the folder of the notebook, and the Report."""
    from kvmlab import report

    folder = tmp_path_factory.mktemp("reported")
    (folder / "beside.txt").write_text("read from beside the notebook")
    path = notebook(
        folder / "shows.ipynb",
        "import random, sys\nfrom pathlib import Path\nfrom kvmlab import Host, columns\nfrom kvmlab.widgets import ask, vary",
        "import matplotlib.pyplot as plt\nhost = Host()\ncpus = host.cpus()\ncpus",
        "print(Path('beside.txt').read_text(), seconds)\nprint(hash('kvmlab'), random.random())",
        "plt.plot([1, 2])\nprint('A line that rises from one to two.')",
        "guess = ask('percent of the work', 0, 120)\nguess",
        "def show(many):\n    plt.plot([1, many])\n    plt.show()\n    print('drawn', many)\n\nvary(show, many=(1, 8, 3))",
        "cpus.loc[0, 'core'] = 77\nagain = cpus\nboth = {'one': host.caches(), 'no': 1}\nplain = cpus.astype(object)",
        "class Bad:\n    def __str__(self):\n        raise OSError('not to be written')\n\n"
        "bad = host.cpus().assign(bad=Bad())\nrest = host.nodes()",
        "print('x' * 300, '\\n<b>not bold</b>')",
        "from IPython.display import HTML, Javascript, display\ndisplay(HTML('<img src=\"https://example.org/a.png\">'))\n"
        "display(HTML('<script src=\"https://example.org/a.js\"></script><p>kept</p>'), Javascript('alert(1)'))",
        "print('the end')",
        parameters="seconds = 1  # of each measurement\nword = '0-1'",
        text="# A try\nwith a [link](01_other.ipynb), and [one that leads out](https://example.org/).\n\n| a | b |\n|---|---|\n| 1 | 2 |",
    )
    return folder, report.run(path, folder / "out", {"seconds": 2, "word": 3}, progress=False)
