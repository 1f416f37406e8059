"""The README's example runs and prints what the README says it prints."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_example_prints_what_the_readme_shows(capsys):
    text = README.read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    shown = re.search(r"prints\n```\n(.*?)```", text, re.DOTALL).group(1).splitlines()
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    cut = shown.index("...")
    assert printed[:cut] == shown[:cut]
    end = shown[cut + 1 : -1]
    assert printed[-1 - len(end) : -1] == end
    label, number = printed[-1].rsplit(" ", 1)
    assert label == "largest difference"
    assert float(number) < 1e-6
