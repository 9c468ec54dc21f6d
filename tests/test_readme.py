"""What the READMEs show runs, and both show the same."""

import re
import shutil
from pathlib import Path

import pytest

from modelscope_zipenhancer import cli

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README.zh-CN.md")


def blocks(name: str, language: str) -> list:
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_both_languages_show_the_same_code():
    for language in ("bash", "python"):
        strip = [[re.sub(r"\s*#.*", "", block) for block in blocks(name, language)] for name in READMES]
        assert strip[0] == strip[1] and strip[0]


@pytest.mark.parametrize("name", READMES)
def test_every_link_into_the_project_leads_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links and not [link for link in links if not (ROOT / link).exists()]


def test_ci_sets_up_and_tests_as_the_readme_says():
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    first, second = blocks("README.md", "bash")[:2]
    for command in (*first.strip().split(" && "), *second.strip().split(" && ")):
        words = command.replace("pip install", "pip install -q").replace("-o clean.wav", "")
        assert words.strip() in ci, command


def test_the_first_command_denoises_the_example(tmp_path, monkeypatch, capsys):
    command = blocks("README.md", "bash")[0].strip().split(" && ")[1].split()
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    assert command[0] == "zipenhancer" and cli.main(command[1:]) == 0
    assert (tmp_path / "clean.wav").exists() and "RTF" in capsys.readouterr().out


def test_the_python_blocks_run_but_for_the_download(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    for block in blocks("README.md", "python"):
        code = compile(block, "README.md", "exec")
        if "damo/" not in block:  # tests/test_hub.py runs that one, on a hub of its own
            exec(code, {})
    assert (tmp_path / "clean.wav").exists()
